// Package await waits for things that other processes do.
//
// It replaces sleeps: a wait ends as soon as the condition holds, and it is
// bounded by its context alone, so a slow machine needs no other numbers than
// a fast one.
package await

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
)

// Interval is the time between two looks at a condition.
const Interval = 20 * time.Millisecond

// Condition looks at cond until it holds, fails or ctx ends. The error names
// what was awaited.
func Condition(ctx context.Context, what string, cond func() (bool, error)) error {
	tick := time.NewTicker(Interval)
	defer tick.Stop()
	for {
		ok, err := cond()
		if err != nil {
			return fmt.Errorf("waiting for %s: %w", what, err)
		}
		if ok {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w", what, context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// FileContains waits until the file at path exists and contains want; it
// returns the whole content at that moment. When ctx ends first it returns
// what the file held, with an error that shows the end of it.
func FileContains(ctx context.Context, path string, want []byte) ([]byte, error) {
	var last []byte
	var seen fs.FileInfo
	err := Condition(ctx, fmt.Sprintf("%q in %s", want, path), func() (bool, error) {
		info, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) || err == nil && same(seen, info) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		seen, last = info, b
		return bytes.Contains(b, want), nil
	})
	if err != nil {
		return last, fmt.Errorf("%w; the file has %d bytes and ends in %q", err, len(last), tail(last, 200))
	}
	return last, nil
}

// same says whether nothing was written between two looks, as far as stat(2)
// can tell. A write between the stat and the read that follows it makes a
// difference at the next look.
func same(before, now fs.FileInfo) bool {
	return before != nil && os.SameFile(before, now) &&
		before.Size() == now.Size() && before.ModTime().Equal(now.ModTime())
}

func tail(b []byte, n int) []byte {
	return b[max(0, len(b)-n):]
}
