package converter

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestDrainDeadline(t *testing.T) {
	disk := &faultyDisk{}
	n := newNode(t, Config{IdleFlush: time.Hour, openLog: disk.open})
	if err := n.manager.Drain(t.Context(), "unknown"); err != nil {
		t.Errorf("Drain of nothing: %v", err)
	}
	n.begin("a")
	line := strings.Repeat("x", 4999) + "\n"
	want := strings.Repeat(line, 4_000)
	release := disk.hang()
	n.write("a", want)
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := n.manager.Drain(ctx, "a"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Drain with a deadline, and a disk that hangs: %v", err)
	}
	release()
	must(t, n.manager.Drain(t.Context(), "a"))
	n.expectText("a.log", want)

	// A disk that is full is told at once, not at the deadline.
	must(t, disk.fail("3", "ENOSPC"))
	n.write("a", "more\n")
	if err := n.manager.Drain(t.Context(), "a"); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("Drain to a full disk: %v", err)
	}
	disk.heal()
	must(t, n.manager.Drain(t.Context(), "a"))
	n.expectText("a.log", want+"more\n")
}

// TestReclaim checks that a raw log costs a constant amount of disk, whatever
// the VM writes, and that a restart still finds its place.
func TestReclaim(t *testing.T) {
	n := newNode(t, Config{RawRetain: 256 << 10})
	run := n.begin("a")
	line := strings.Repeat("x", 98) + "\r\n"
	piece := strings.Repeat(line, 10_000) // 1 MB
	const pieces = 64
	blocks := func() int64 {
		var st syscall.Stat_t
		must(t, syscall.Stat(n.path("raw/"+run.RawNames[0]), &st))
		return st.Blocks * 512
	}
	for range pieces {
		n.write("a", piece)
	}
	must(t, n.manager.Drain(t.Context(), "a"))
	eventually(t, "the space is given back", func() bool { return blocks() < 2<<20 })
	fi, err := os.Stat(n.path("raw/" + run.RawNames[0]))
	must(t, err)
	if fi.Size() != pieces*int64(len(piece)) {
		t.Errorf("the raw log has %d bytes", fi.Size())
	}
	n.manager.abandon()
	n.start()
	must(t, n.manager.Resume(t.Context(), run))
	n.write("a", "the end\r\n")
	must(t, n.manager.Drain(t.Context(), "a"))
	if got, want := n.text("a.log"), strings.Repeat(strings.ReplaceAll(piece, "\r", ""), pieces)+"the end\n"; got != want {
		t.Errorf("the log has %d bytes, want %d", len(got), len(want))
	}
}

// TestHugeHole is a raw log that an old QEMU has left with a hole: nobody reads
// 5 GiB of zeros, and the log gets one line for them.
func TestHugeHole(t *testing.T) {
	n := newNode(t, Config{})
	run := n.begin("a")
	raw := n.path("raw/" + run.RawNames[0])
	n.write("a", "before\r\n")
	must(t, os.Truncate(raw, 5<<30))
	n.write("a", "after\r\n")
	start := time.Now()
	must(t, n.manager.Drain(t.Context(), "a"))
	if d := time.Since(start); d > patience/2 {
		t.Errorf("it took %v", d)
	}
	want := fmt.Sprintf("before\n[cri-logproxy] skipped %d NUL bytes: a hole in the raw log\nafter\n", 5<<30-len("before\r\n"))
	if got := n.everything("a.log"); got != want {
		t.Errorf("the log is %q", got)
	}
}

// everything is the content of all records of a log, notices included.
func (n *node) everything(name string) string {
	n.t.Helper()
	b, err := os.ReadFile(n.path("pods/pod/vm/" + name))
	must(n.t, err)
	var all strings.Builder
	for line := range strings.Lines(string(b)) {
		all.WriteString(strings.SplitN(line, " ", 4)[3])
	}
	return all.String()
}

// TestDiskFullIsTold checks that the readers of a log hear that it stood still,
// after the first line that could be written again.
func TestDiskFullIsTold(t *testing.T) {
	for _, errno := range []string{"ENOSPC", "EDQUOT", "EIO", "EROFS"} {
		t.Run(errno, func(t *testing.T) {
			t.Parallel()
			disk := &faultyDisk{}
			n := newNode(t, Config{openLog: disk.open})
			n.begin("a")
			must(t, disk.fail("0", errno))
			n.write("a", "one\r\n")
			if err := n.manager.Drain(t.Context(), "a"); !errors.Is(err, errnos[errno]) || !errors.Is(err, ErrReported) {
				t.Errorf("drain: %v", err)
			}
			<-time.After(tellAfter) // the time is what this is about
			disk.heal()
			want := regexp.MustCompile("^one\n\\[cri-logproxy\\] this log could not be written for [1-3]s: " + errnos[errno].Error())
			eventually(t, "the notice", func() bool { return want.MatchString(n.everything("a.log")) })
		})
	}
}

// TestBacklogFaults has a large backlog converted by a disk that fails at random
// bytes, and is rotated, put back and killed meanwhile.
func TestBacklogFaults(t *testing.T) {
	disk := &faultyDisk{}
	n := newNode(t, Config{openLog: disk.open})
	run := n.begin("a")
	var raw, want strings.Builder
	for i := 0; raw.Len() < 24<<20; i++ {
		line := fmt.Sprintf("line %07d %s", i, strings.Repeat("y", i%150))
		if i%5000 == 0 {
			line += strings.Repeat("\x1b[0m", 10_000) // several records, the slow way
		}
		raw.WriteString(line + "\r\n")
		want.WriteString(line + "\n")
	}
	var text strings.Builder
	check := func(name string) {
		text.WriteString(n.text(name))
		must(t, os.Remove(n.path("pods/pod/vm/"+name)))
	}
	log := n.path("pods/pod/vm/a.log")
	must(t, os.WriteFile(n.path("raw/"+run.RawNames[0]), []byte(raw.String()), 0o600))
	for i := range 12 {
		must(t, disk.fail(strconv.Itoa(rand.IntN(3<<20)), "ENOSPC"))
		if err := n.manager.Drain(t.Context(), "a"); err == nil {
			break // all is through
		}
		disk.heal()
		switch i % 3 {
		case 0:
			n.manager.abandon()
			n.start()
			must(t, n.manager.Resume(t.Context(), run))
		case 1:
			rotated := fmt.Sprintf("a.log.%d", i)
			must(t, os.Rename(log, n.path("pods/pod/vm/"+rotated)))
			must(t, n.manager.Reopen(t.Context(), "a"))
			check(rotated)
		}
	}
	disk.heal()
	must(t, n.manager.Drain(t.Context(), "a"))
	check("a.log")
	// A rotation ends a line that is open. All else must be as it was written.
	lines := func(s string) string { return strings.ReplaceAll(s, "\n", "") }
	if extra := strings.Count(text.String(), "\n") - strings.Count(want.String(), "\n"); extra < 0 || extra > 4 {
		t.Errorf("%d line ends more than written, with 4 rotations", extra)
	}
	if got, want := lines(text.String()), lines(want.String()); got != want {
		i := 0
		for i < min(len(got), len(want)) && got[i] == want[i] {
			i++
		}
		t.Errorf("%d bytes, want %d; they part at byte %d: %.200q", len(got), len(want), i, got[max(0, i-50):])
	}
}

// TestReclaimWaitsForStart begins an attempt whose raw log still holds the one
// before: giving that back would look like the start of the VM.
func TestReclaimWaitsForStart(t *testing.T) {
	n := newNode(t, Config{RawRetain: 4096})
	run := n.begin("a")
	n.write("a", strings.Repeat("boot 0\r\n", 400_000))
	must(t, n.manager.Drain(t.Context(), "a"))
	run.LogName = "pod/vm/1.log"
	must(t, n.manager.Begin(t.Context(), run))
	look := func() {
		w := n.manager.worker("a")
		must(t, w.do(t.Context(), func() error { w.checkpointNow(); w.reclaim(); return nil }))
		must(t, n.manager.Drain(t.Context(), "a"))
	}
	look()
	if got := n.everything("1.log"); got != "" {
		t.Errorf("before the VM starts: %.100q", got)
	}
	must(t, os.Truncate(n.path("raw/"+run.RawNames[0]), 0))
	n.write("a", strings.Repeat("boot 1\r\n", 500_000))
	must(t, n.manager.Drain(t.Context(), "a"))
	look()
	if got := n.everything("1.log"); got != strings.Repeat("boot 1\n", 500_000) {
		t.Errorf("the second boot has %d bytes and begins %.100q", len(got), got)
	}
}
