package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"

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
	m, dir, err := newManager(b, "latency", converter.CRI)
	if err != nil {
		return err
	}
	defer m.Close(ctx)
	v, err := newVM(m, dir, "vm")
	if err != nil {
		return err
	}
	raw, err := os.OpenFile(v.raw, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer raw.Close()
	if err := v.begin(ctx); err != nil {
		return err
	}
	log, err := os.Open(v.log)
	if err != nil {
		return err
	}
	defer log.Close()
	var took []time.Duration
	for i := range latencySamples {
		time.Sleep(quiet)
		before, err := log.Stat()
		if err != nil {
			return err
		}
		start := time.Now()
		if _, err := fmt.Fprintf(raw, "line %d of a quiet VM\r\n", i); err != nil {
			return err
		}
		for {
			now, err := log.Stat()
			if err != nil {
				return err
			}
			if now.Size() > before.Size() {
				break
			}
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	for _, p := range []int{50, 99} {
		b.report(fmt.Sprintf("latency/line-visible/p%d", p), float64(took[len(took)*p/100].Microseconds()), "us")
	}
	return nil
}
