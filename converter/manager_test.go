package converter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// eventually looks at cond until it holds.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	timeout := time.After(patience)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-timeout:
			t.Fatalf("not after %v: %s", patience, what)
		case <-tick.C:
		}
	}
}

// soon is eventually, but well before the slow look could be the reason.
func soon(t testing.TB, what string, cond func() bool) {
	t.Helper()
	start := time.Now()
	eventually(t, what, cond)
	if d := time.Since(start); d > lookInterval/2 {
		t.Errorf("%s: took %v", what, d)
	}
}

// node is directories and a Manager that converts between them by itself.
type node struct {
	t       testing.TB
	dir     string
	config  Config
	manager *Manager
}

func newNode(t testing.TB, config Config) *node {
	n := &node{t: t, dir: t.TempDir(), config: config}
	n.config.RawRoot, n.config.LogRoot, n.config.StateDir = n.path("raw"), n.path("pods"), n.path("state")
	for _, d := range []string{"raw/sandbox", "pods/pod/vm"} {
		must(t, os.MkdirAll(n.path(d), 0o755))
	}
	n.start()
	t.Cleanup(func() {
		if err := n.manager.Close(context.Background()); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return n
}

func (n *node) path(rel string) string { return filepath.Join(n.dir, rel) }

func (n *node) start() {
	n.t.Helper()
	var err error
	n.manager, err = NewManager(n.config)
	must(n.t, err)
}

func (n *node) restart(run Run) {
	n.t.Helper()
	must(n.t, n.manager.Close(n.t.Context()))
	n.start()
	must(n.t, n.manager.Resume(n.t.Context(), run))
}

// vm is one container's files.
func (n *node) vm(id string) Run {
	return Run{ContainerID: id, RawNames: []string{"sandbox/" + id + ".log"}, LogName: "pod/vm/" + id + ".log"}
}

func (n *node) begin(id string) Run {
	n.t.Helper()
	run := n.vm(id)
	must(n.t, n.manager.Begin(n.t.Context(), run))
	return run
}

func (n *node) write(id, text string) {
	n.t.Helper()
	must(n.t, appendFile(n.path("raw/sandbox/"+id+".log"), []byte(text)))
}

// records returns what is in a container log, without notices.
func (n *node) records(name string) []record {
	n.t.Helper()
	b, err := os.ReadFile(n.path("pods/pod/vm/" + name))
	must(n.t, err)
	format := CRI
	if bytes.HasPrefix(b, []byte("{")) {
		format = DockerJSON
	}
	var list []record
	for line := range bytes.Lines(b) {
		line, whole := bytes.CutSuffix(line, []byte("\n"))
		if !whole {
			continue // being written
		}
		rec, err := format.decodeRecord(line)
		must(n.t, err)
		if !rec.notice {
			list = append(list, rec)
		}
	}
	return list
}

// text joins the records of a container log as kubelet does.
func (n *node) text(name string) string {
	n.t.Helper()
	var b bytes.Buffer
	for _, rec := range n.records(name) {
		b.Write(rec.content)
		if !rec.partial {
			b.WriteByte('\n')
		}
	}
	return b.String()
}

func (n *node) logSize(name string) int64 {
	n.t.Helper()
	fi, err := os.Stat(n.path("pods/pod/vm/" + name))
	must(n.t, err)
	return fi.Size()
}

func (n *node) expectText(name, want string) {
	n.t.Helper()
	if got := n.text(name); got != want {
		n.t.Errorf("%s: %s", name, difference(got, want))
	}
}

// difference shows where two texts part.
func difference(got, want string) string {
	at := 0
	for at < len(got) && at < len(want) && got[at] == want[at] {
		at++
	}
	from := max(0, at-40)
	part := func(s string) string { return s[from:min(len(s), at+40)] }
	return fmt.Sprintf("%d bytes, want %d; from byte %d: %q, want %q", len(got), len(want), from, part(got), part(want))
}

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
		if s.fileWD < 0 {
			return false
		}
	}
	return true
}

// TestByteAtATime writes as QEMU does: one byte per write(2).
func TestByteAtATime(t *testing.T) {
	n := newNode(t, Config{IdleFlush: time.Hour})
	n.begin("a")
	var want strings.Builder
	f := createFile(t, n.path("raw/sandbox/a.log"))
	const lines = 3000
	for i := range lines {
		line := fmt.Sprintf("line %d of the VM\n", i)
		want.WriteString(line)
		for j := range len(line) {
			if line[j] == '\n' {
				_, err := f.Write([]byte{'\r'})
				must(t, err)
			}
			_, err := f.Write([]byte{line[j]})
			must(t, err)
		}
	}
	soon(t, "the last line", func() bool { return len(n.text("a.log")) >= want.Len() })
	n.expectText("a.log", want.String())
	for _, rec := range n.records("a.log") {
		if rec.partial {
			t.Fatalf("partial record %q", rec.content)
		}
	}
}

// TestEndlessLine converts a line that never ends in constant memory. It is not
// parallel: it looks at the heap.
func TestEndlessLine(t *testing.T) {
	const size, chunk = 64 << 20, 1 << 20
	const limit = 16 << 20
	n := newNode(t, Config{IdleFlush: time.Hour})
	n.begin("a")
	f := createFile(t, n.path("raw/sandbox/a.log"))
	runtime.GC()
	done := make(chan struct{})
	peak := make(chan uint64)
	go func() {
		var max uint64
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			if m.HeapAlloc > max {
				max = m.HeapAlloc
			}
			select {
			case <-done:
				peak <- max
				return
			case <-tick.C:
			}
		}
	}()
	text := bytes.Repeat([]byte("0123456789abcdef"), chunk/16)
	for range size / chunk {
		_, err := f.Write(text)
		must(t, err)
	}
	must(t, n.manager.Drain(t.Context(), "a"))
	close(done)
	if p := <-peak; p > limit {
		t.Errorf("the heap has grown to %d bytes", p)
	} else {
		t.Logf("heap: at most %d bytes", p)
	}
	log, err := os.Open(n.path("pods/pod/vm/a.log"))
	must(t, err)
	defer log.Close()
	const head = len(timeLayout) + len(" stdout P ")
	record := make([]byte, head+DefaultMaxLine+1)
	total := 0
	for {
		if _, err := io.ReadFull(log, record); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if content := record[head : len(record)-1]; !bytes.HasSuffix(record[:head], []byte(" stdout P ")) || !bytes.Equal(content, text[:DefaultMaxLine]) || record[len(record)-1] != '\n' {
			t.Fatalf("record at %d: %q", total, record)
		}
		total += DefaultMaxLine
	}
	if total != size {
		t.Errorf("%d bytes, want %d", total, size)
	}
}

// TestRestartsWhileWriting stops and resumes the conversion while the VM
// writes: lines, parts of lines and pauses after which a part is shown.
func TestRestartsWhileWriting(t *testing.T) {
	for _, format := range []Format{CRI, DockerJSON} {
		t.Run(format.String(), func(t *testing.T) {
			t.Parallel()
			n := newNode(t, Config{Format: format, IdleFlush: time.Millisecond, MaxLine: 64})
			run := n.begin("a")
			var want strings.Builder
			stop, stopped := make(chan struct{}), make(chan error, 1)
			go func() {
				stopped <- writeUntil(stop, n.path("raw/sandbox/a.log"), &want)
			}()
			for i := range 20 {
				n.restart(run)
				seen := n.logSize("a.log")
				eventually(t, fmt.Sprintf("output after restart %d", i), func() bool { return n.logSize("a.log") > seen })
			}
			close(stop)
			must(t, <-stopped)
			n.restart(run)
			must(t, n.manager.Drain(t.Context(), "a"))
			n.expectText("a.log", want.String())
			t.Logf("%d bytes in %d records", want.Len(), len(n.records("a.log")))
		})
	}
}

// writeUntil appends numbered lines to path in pieces, and to said.
func writeUntil(stop <-chan struct{}, path string, said *strings.Builder) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for i := 0; ; i++ {
		line := fmt.Sprintf("line %d žluť %s\n", i, strings.Repeat("x", rand.IntN(100)))
		for len(line) > 0 {
			n := min(len(line), 1+rand.IntN(40))
			if _, err := f.WriteString(line[:n]); err != nil {
				return err
			}
			said.WriteString(line[:n])
			line = line[n:]
			select {
			case <-stop:
				_, err := f.WriteString(line)
				said.WriteString(line)
				return err
			default:
			}
			if rand.IntN(10) == 0 {
				<-tick.C
			}
		}
	}
}

// TestDrainUnfinished shows what has no line end.
func TestDrainUnfinished(t *testing.T) {
	n := newNode(t, Config{IdleFlush: time.Hour})
	n.begin("a")
	n.write("a", "panic: at the very\r")
	must(t, n.manager.Drain(t.Context(), "a"))
	n.expectText("a.log", "panic: at the very\r")
}

func TestManyVMs(t *testing.T) {
	n := newNode(t, Config{IdleFlush: time.Hour})
	const vms, lines = 100, 100
	want := make([]string, vms)
	id := func(i int) string { return fmt.Sprintf("vm-%d", i) }
	var wg sync.WaitGroup
	for i := range vms {
		wg.Go(func() {
			if err := n.manager.Begin(t.Context(), n.vm(id(i))); err != nil {
				t.Error(err)
				return
			}
			f, err := os.Create(n.path("raw/sandbox/" + id(i) + ".log"))
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			for j := range lines {
				line := fmt.Sprintf("%d says %d\n", i, j)
				want[i] += line
				if _, err := f.WriteString(line); err != nil {
					t.Error(err)
				}
				if rand.IntN(20) == 0 {
					runtime.Gosched()
				}
			}
		})
	}
	wg.Wait()
	soon(t, "all lines of all VMs", func() bool {
		for i := range vms {
			if n.text(id(i)+".log") != want[i] {
				return false
			}
		}
		return true
	})
	for i := range vms {
		if i%2 == 0 {
			must(t, n.manager.Forget(t.Context(), id(i)))
			n.write(id(i), "forgotten\n")
		} else {
			n.write(id(i), "goodbye\n")
			want[i] += "goodbye\n"
		}
	}
	must(t, n.manager.Close(t.Context()))
	for i := range vms {
		n.expectText(id(i)+".log", want[i])
	}
	n.start()
}

func TestClosed(t *testing.T) {
	n := newNode(t, Config{})
	run := n.begin("a")
	must(t, n.manager.Close(t.Context()))
	ctx := t.Context()
	if err := n.manager.Begin(ctx, run); !errors.Is(err, errStopped) {
		t.Errorf("Begin: %v", err)
	}
	if err := n.manager.Resume(ctx, run); !errors.Is(err, errStopped) {
		t.Errorf("Resume: %v", err)
	}
	if err := n.manager.Reopen(ctx, "a"); !errors.Is(err, ErrNotConverting) {
		t.Errorf("Reopen: %v", err)
	}
	if err := n.manager.Drain(ctx, "a"); err != nil {
		t.Errorf("Drain: %v", err)
	}
	n.start()
}

// TestCloseTwice is Close as it may be deferred and called.
func TestCloseTwice(t *testing.T) {
	n := newNode(t, Config{})
	n.begin("a")
	must(t, n.manager.Close(t.Context()))
	must(t, n.manager.Close(t.Context()))
	n.start()
}

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
