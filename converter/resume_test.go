package converter

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"
	"time"
)

// TestRestartWithoutLog restarts twice while the log is renamed and not
// reopened yet: the place in the raw log must not get lost.
func TestRestartWithoutLog(t *testing.T) {
	n := newNode(t, Config{IdleFlush: time.Hour})
	run := n.begin("a")
	n.write("a", "one\n")
	must(t, n.manager.Close(t.Context()))
	log := n.path("pods/pod/vm/a.log")
	must(t, os.Rename(log, log+".20261123-101112"))
	n.start()
	must(t, n.manager.Resume(t.Context(), run))
	n.write("a", "two\n")
	n.restart(run)
	if _, err := os.Stat(log); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Resume has made the log: %v", err)
	}
	must(t, n.manager.Reopen(t.Context(), "a"))
	must(t, n.manager.Drain(t.Context(), "a"))
	n.expectText("a.log.20261123-101112", "one\n")
	n.expectText("a.log", "two\n")
}

// TestResumeCancelled restarts twice where the first Resume came too late to be
// heard.
func TestResumeCancelled(t *testing.T) {
	n := newNode(t, Config{IdleFlush: time.Hour})
	run := n.begin("a")
	n.write("a", "one\n")
	must(t, n.manager.Close(t.Context()))
	n.start()
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for range 100 { // it may be heard all the same
		if n.manager.Resume(cancelled, n.vm("a")) != nil && n.noRun("a") {
			break
		}
		must(t, n.manager.Close(t.Context()))
		n.start()
	}
	n.restart(run)
	must(t, n.manager.Drain(t.Context(), "a"))
	n.expectText("a.log", "one\n")
}

func (n *node) noRun(id string) (none bool) {
	w := n.manager.worker(id)
	must(n.t, w.do(n.t.Context(), func() error { none = w.run.LogName == ""; return nil }))
	return none
}

// TestReplayNoticeBeforeNULs resumes behind a notice that is not about a hole,
// before console output that begins with NUL bytes.
func TestReplayNoticeBeforeNULs(t *testing.T) {
	n := newNode(t, Config{IdleFlush: time.Hour})
	raw := n.path("raw/sandbox/a.log")
	must(t, os.Symlink("elsewhere", raw))
	run := n.begin("a")
	logHas := func(text string) func() bool {
		return func() bool {
			b, err := os.ReadFile(n.path("pods/pod/vm/a.log"))
			return err == nil && bytes.Contains(b, []byte(text))
		}
	}
	eventually(t, "the notice", logHas("missing from here on"))
	checkpoint, err := os.ReadFile(n.manager.checkpoints.path("a"))
	must(t, err)
	must(t, os.Remove(raw))
	n.write("a", "\x00\x00boot\n")
	eventually(t, "the line", logHas("boot"))
	n.manager.abandon()
	// The crash came before the next checkpoint.
	must(t, os.WriteFile(n.manager.checkpoints.path("a"), checkpoint, 0o600))
	n.start()
	must(t, n.manager.Resume(t.Context(), run))
	must(t, n.manager.Drain(t.Context(), "a"))
	n.expectText("a.log", "\x00\x00boot\n")
}

// TestReplayHoleAtEnd resumes where a hole has been told of last, from a
// checkpoint within it.
func TestReplayHoleAtEnd(t *testing.T) {
	n := newNode(t, Config{IdleFlush: time.Hour})
	run := n.begin("a")
	n.write("a", "one\n"+strings.Repeat("\x00", 5000))
	w := n.manager.worker("a")
	must(t, w.do(t.Context(), func() error {
		_, err := w.convert(FlushNone)
		return errors.Join(err, w.checkpoint(true))
	}))
	n.write("a", "tw")
	holes := func() int {
		b, err := os.ReadFile(n.path("pods/pod/vm/a.log"))
		must(t, err)
		return bytes.Count(b, []byte("skipped 5000 NUL bytes"))
	}
	must(t, w.do(t.Context(), func() error { _, err := w.convert(FlushNone); return err }))
	eventually(t, "the notice", func() bool { return holes() == 1 })
	n.manager.abandon()
	n.start()
	must(t, n.manager.Resume(t.Context(), run))
	n.write("a", "o\n")
	must(t, n.manager.Drain(t.Context(), "a"))
	n.expectText("a.log", "one\ntwo\n")
	if holes() != 1 {
		t.Errorf("%d notices of one hole", holes())
	}
}
