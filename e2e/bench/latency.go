package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/nxadm/tail"

	"github.com/cri-logproxy/cri-logproxy/converter"
)

const (
	latencySamples = 300
	// quiet is long enough for a converter to have gone from reading on a
	// timer to waiting for a change.
	quiet = 50 * time.Millisecond
)

// lineVisible measures from the write of a line to a quiet raw log to the end of
// the write of its record.
func lineVisible(ctx context.Context, b *bench) error {
	took, err := ourLatencies(ctx, b)
	if err != nil {
		return err
	}
	for _, p := range []int{50, 99} {
		b.report(fmt.Sprintf("latency/line-visible/p%d", p), percentile(took, p), "us")
	}
	return nil
}

// versusTail measures the same through a follower made with nxadm/tail, which
// writes the same record for each line.
func versusTail(ctx context.Context, b *bench) error {
	ours, err := ourLatencies(ctx, b)
	if err != nil {
		return err
	}
	theirs, err := tailLatencies(b)
	if err != nil {
		return err
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

// latencies writes lines to a quiet raw log and waits for each to be in the
// log.
func latencies(rawPath, logPath string) ([]time.Duration, error) {
	raw, err := os.OpenFile(rawPath, os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer raw.Close()
	log, err := os.Open(logPath)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	var took []time.Duration
	for i := range latencySamples {
		time.Sleep(quiet)
		before, err := log.Stat()
		if err != nil {
			return nil, err
		}
		start := time.Now()
		if _, err := fmt.Fprintf(raw, "line %d of a quiet VM\r\n", i); err != nil {
			return nil, err
		}
		for {
			now, err := log.Stat()
			if err != nil {
				return nil, err
			}
			if now.Size() > before.Size() {
				break
			}
		}
		took = append(took, time.Since(start))
	}
	return took, nil
}
