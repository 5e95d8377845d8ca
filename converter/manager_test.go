package converter

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

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
