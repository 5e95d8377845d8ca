package converter

import (
	"errors"
	"fmt"
	"os"
	"testing"
	"time"
)

func TestLiveLine(t *testing.T) {
	for _, format := range []Format{CRI, DockerJSON} {
		t.Run(format.String(), func(t *testing.T) {
			n := newNode(t, Config{Format: format, IdleFlush: time.Hour})
			n.write("a", "before\n")
			n.begin("a")
			want := "before\n"
			for i := range 20 {
				soon(t, fmt.Sprintf("%d lines in the log", i+1), func() bool { return n.text("a.log") == want })
				// The raw log is quiet now: only an event can wake the worker.
				line := fmt.Sprintf("line %d\n", i)
				want += line
				n.write("a", line)
			}
			soon(t, "the last line", func() bool { return n.text("a.log") == want })
		})
	}
}

func TestLivePrompt(t *testing.T) {
	n := newNode(t, Config{})
	n.begin("a")
	n.write("a", "boot\r\nvm login: ")
	written := time.Now()
	eventually(t, "the line", func() bool { return n.text("a.log") != "" })
	if d := time.Since(written); d < DefaultIdleFlush/2 {
		n.expectText("a.log", "boot\n") // the prompt may go on
	}
	eventually(t, "the prompt", func() bool { return n.text("a.log") == "boot\nvm login: " })
	if d := time.Since(written); d < DefaultIdleFlush || d > DefaultIdleFlush+time.Second {
		t.Errorf("the prompt came after %v, the idle time is %v", d, DefaultIdleFlush)
	}
	n.write("a", "root\r\n")
	soon(t, "the rest", func() bool { return n.text("a.log") == "boot\nvm login: root\n" })
}

// TestLiveMadeLater has the sandbox's directory and the raw log come after
// Begin, as the runtime makes them.
func TestLiveMadeLater(t *testing.T) {
	for name, appear := range map[string]func(n *node) error{
		"made": func(n *node) error {
			return errors.Join(os.Mkdir(n.path("raw/sandbox"), 0o755), appendFile(n.path("raw/sandbox/a.log"), []byte("one\n")))
		},
		"renamed": func(n *node) error {
			return errors.Join(os.Mkdir(n.path("tmp"), 0o755), appendFile(n.path("tmp/a.log"), []byte("one\n")), os.Rename(n.path("tmp"), n.path("raw/sandbox")))
		},
		"made and renamed": func(n *node) error {
			return errors.Join(os.Mkdir(n.path("raw/sandbox"), 0o755), appendFile(n.path("raw/sandbox/x"), []byte("one\n")), os.Rename(n.path("raw/sandbox/x"), n.path("raw/sandbox/a.log")))
		},
	} {
		for range 50 { // each falls between other steps of the worker
			t.Run(name, func(t *testing.T) {
				n := newNode(t, Config{IdleFlush: time.Hour})
				must(t, os.Remove(n.path("raw/sandbox")))
				n.begin("a")
				must(t, appear(n))
				soon(t, "the first line", func() bool { return n.text("a.log") == "one\n" })
				n.write("a", "two\n")
				soon(t, "the second line", func() bool { return n.text("a.log") == "one\ntwo\n" })
			})
		}
	}
}

// TestLiveFileEvents replaces and truncates the raw log under a worker that
// has seen all of it.
func TestLiveFileEvents(t *testing.T) {
	n := newNode(t, Config{IdleFlush: time.Hour})
	n.begin("a")
	raw := n.path("raw/sandbox/a.log")
	want := ""
	say := func(what, text string) {
		t.Helper()
		n.write("a", text)
		want += text
		soon(t, what, func() bool { return n.text("a.log") == want })
	}
	say("first", "first\n")
	must(t, os.Truncate(raw, 0))
	say("after truncation", "second, which is longer\n")
	must(t, os.Rename(raw, raw+".1"))
	say("after a rename", "third\n")
	must(t, os.Remove(raw))
	say("after a deletion", "fourth\n")
	must(t, appendFile(raw+".new", []byte("fifth\n")))
	must(t, os.Rename(raw+".new", raw))
	want += "fifth\n"
	soon(t, "after a replacement", func() bool { return n.text("a.log") == want })
}

// TestLiveDirReplaced is the sandbox's directory deleted and made again while
// the VM has its raw log open.
func TestLiveDirReplaced(t *testing.T) {
	n := newNode(t, Config{IdleFlush: time.Hour})
	n.begin("a")
	n.write("a", "one\n")
	qemu := createFile(t, n.path("raw/sandbox/a.log"))
	soon(t, "first", func() bool { return n.text("a.log") == "one\n" })
	must(t, os.Rename(n.path("raw/sandbox"), n.path("raw/old")))
	must(t, os.Mkdir(n.path("raw/sandbox"), 0o755))
	// The worker sees to this, is quiet again, and waits for the new file.
	_, err := qemu.WriteString("two\n")
	must(t, err)
	soon(t, "second", func() bool { return n.text("a.log") == "one\ntwo\n" })
	// With nothing left to save, no timer makes the worker look.
	w := n.manager.worker("a")
	must(t, w.do(t.Context(), func() error { return w.checkpoint(true) }))
	eventually(t, "the worker waiting for events", n.manager.watcher.allArmed)
	n.write("a", "three\n")
	soon(t, "third", func() bool { return n.text("a.log") == "one\ntwo\nthree\n" })
}

// allArmed says that all followers wait for their file to change.
func (w *watcher) allArmed() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for s := range w.subs {
		if s.fileWD < 0 || s.told {
			return false
		}
	}
	return true
}
