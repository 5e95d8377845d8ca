package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nxadm/tail"
	"golang.org/x/sys/unix"

	"github.com/cri-logproxy/cri-logproxy/converter"
)

const (
	// What is compared takes turns of so many lines.
	latencyTurns, latencySamples = 3, 100
	// quiet is long enough for a converter to have gone from reading on a
	// timer to waiting for a change.
	quiet = 50 * time.Millisecond
)

// lineVisible measures from the write of a line to a quiet raw log to the end of
// the write of its record.
func lineVisible(ctx context.Context, b *bench) error {
	var took []time.Duration
	for range latencyTurns {
		more, err := ourLatencies(ctx, b)
		if err != nil {
			return err
		}
		took = append(took, more...)
	}
	for _, p := range []int{50, 99} {
		b.report(fmt.Sprintf("latency/line-visible/p%d", p), percentile(took, p), "us")
	}
	return nil
}

// versusTail measures the same through a follower made with nxadm/tail, which
// writes the same record for each line.
func versusTail(ctx context.Context, b *bench) error {
	var ours, theirs []time.Duration
	for range latencyTurns {
		one, err := ourLatencies(ctx, b)
		if err != nil {
			return err
		}
		other, err := tailLatencies(b)
		if err != nil {
			return err
		}
		ours, theirs = append(ours, one...), append(theirs, other...)
	}
	b.report("follow/vs-nxadm-tail/latency", percentile(theirs, 50)/percentile(ours, 50), "x")
	return nil
}

// percentile returns the p-th of 100, in microseconds.
func percentile(took []time.Duration, p int) float64 {
	slices.Sort(took)
	return float64(took[len(took)*p/100].Nanoseconds()) / 1e3
}

func ourLatencies(ctx context.Context, b *bench) ([]time.Duration, error) {
	m, dir, err := newManager(b, "latency", converter.CRI)
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	defer m.Close(ctx)
	v, err := newVM(m, dir, "vm")
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(v.raw, nil, 0o600); err != nil {
		return nil, err
	}
	if err := v.begin(ctx); err != nil {
		return nil, err
	}
	return latencies(v.raw, v.log)
}

func tailLatencies(b *bench) ([]time.Duration, error) {
	dir, err := os.MkdirTemp(b.dir, "tail")
	if err != nil {
		return nil, err
	}
	raw, log := dir+"/raw", dir+"/log"
	if err := os.WriteFile(raw, nil, 0o600); err != nil {
		return nil, err
	}
	out, err := os.Create(log)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	t, err := tail.TailFile(raw, tail.Config{Follow: true, ReOpen: true, Logger: tail.DiscardingLogger})
	if err != nil {
		return nil, err
	}
	defer t.Cleanup()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for line := range t.Lines {
			fmt.Fprintf(out, "%s stdout F %s\n", line.Time.UTC().Format(time.RFC3339Nano), line.Text)
		}
	}()
	took, err := latencies(raw, log)
	if stopErr := t.Stop(); err == nil {
		err = stopErr
	}
	<-done
	return took, err
}

// latencies has lines written to a quiet raw log, each when the record of the
// one before is in the log, and returns how long that took each time. Another
// process does it, woken by the record's write: one that looked all the time
// would keep the follower from a core. What it takes to wake it counts, too.
func latencies(rawPath, logPath string) ([]time.Duration, error) {
	cmd, err := child("write-lines", rawPath, logPath)
	if err != nil {
		return nil, err
	}
	out, err := cmd.Output()
	if err != nil {
		return nil, err
	}
	var took []time.Duration
	for line := range strings.Lines(string(out)) {
		ns, err := strconv.ParseInt(strings.TrimSpace(line), 10, 64)
		if err != nil {
			return nil, err
		}
		took = append(took, time.Duration(ns))
	}
	return took, nil
}

// writeLines is the child of latencies. It prints nanoseconds.
func writeLines(args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("want RAW LOG, have %q", args)
	}
	raw, err := os.OpenFile(args[0], os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer raw.Close()
	runtime.LockOSThread()
	events, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		return err
	}
	if _, err := unix.InotifyAddWatch(events, args[1], unix.IN_MODIFY); err != nil {
		return err
	}
	event := make([]byte, 4096)
	for i := range latencySamples {
		time.Sleep(quiet)
		start := time.Now()
		if _, err := fmt.Fprintf(raw, "line %d of a quiet VM\r\n", i); err != nil {
			return err
		}
		if _, err := unix.Read(events, event); err != nil {
			return err
		}
		fmt.Println(time.Since(start).Nanoseconds())
	}
	return nil
}
