package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/cri-logproxy/cri-logproxy/converter"
)

const (
	byteRate    = 250_000
	byteSeconds = 5
)

// byteWrites measures what following one VM costs that writes one byte per
// write(2), as QEMU does.
func byteWrites(ctx context.Context, b *bench) error {
	m, dir, err := newManager(b, "bytes", converter.CRI)
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	defer m.Close(ctx)
	v, err := newVM(m, dir, "vm")
	if err != nil {
		return err
	}
	if err := v.begin(ctx); err != nil {
		return err
	}
	writer, err := child("write-bytes", v.raw, fmt.Sprint(byteRate), fmt.Sprint(byteSeconds))
	if err != nil {
		return err
	}
	before, err := cpuTime()
	if err != nil {
		return err
	}
	start := time.Now()
	written, err := writer.Output()
	if err != nil {
		return err
	}
	took := time.Since(start)
	after, err := cpuTime()
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "follow/byte-writes: %.0f writes/s\n", atof(written)/took.Seconds())
	b.report("follow/byte-writes/cpu", 100*(after-before).Seconds()/took.Seconds(), "%")
	return m.Drain(ctx, filepath.Base(filepath.Dir(v.raw)))
}

func atof(b []byte) (f float64) {
	_, _ = fmt.Sscan(string(b), &f) // 0 if it is none
	return f
}
