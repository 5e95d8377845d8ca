package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	crio "github.com/containerd/containerd/pkg/cri/io"

	"github.com/cri-logproxy/cri-logproxy/converter"
)

const (
	// rawSize is how much is converted for a throughput, in bytes, and
	// peerSize how much is given to a peer that is far slower.
	rawSize  = 64 << 20
	peerSize = 16 << 20
	// warmUp rounds do not count: a virtual machine that has been idle gets its
	// memory from its host first, page by page.
	warmUp, rounds = 5, 25
	peerRounds     = 3
)

// convert measures raw log to container log, file to file, the copying of a file
// as large as our output, and the same text through containerd's CRI logger.
// What is compared takes turns without a pause; each figure is the median of the
// rounds.
func convert(ctx context.Context, b *bench) error {
	text := consoleText(rawSize)
	raw := filepath.Join(b.dir, "raw.log")
	if err := os.WriteFile(raw, text, 0o600); err != nil {
		return err
	}
	defer os.Remove(raw)
	first, err := convertOnce(ctx, b, converter.CRI, raw)
	if err != nil {
		return err
	}
	from := filepath.Join(b.dir, "from")
	if err := os.WriteFile(from, make([]byte, first.outputSize), 0o600); err != nil {
		return err
	}
	defer os.Remove(from)
	var cri, json, copied, allocs []float64
	for round := range warmUp + rounds {
		one, err := convertOnce(ctx, b, converter.CRI, raw)
		if err != nil {
			return err
		}
		copying, err := copyOnce(b, from)
		if err != nil {
			return err
		}
		other, err := convertOnce(ctx, b, converter.DockerJSON, raw)
		if err != nil {
			return err
		}
		if round < warmUp {
			continue
		}
		cri = append(cri, one.took.Seconds())
		json = append(json, other.took.Seconds())
		copied = append(copied, copying.Seconds())
		allocs = append(allocs, float64(one.allocs))
	}
	var containerd []float64
	for range peerRounds {
		took, err := containerdOnce(b, text[:peerSize])
		if err != nil {
			return err
		}
		containerd = append(containerd, took.Seconds())
	}
	megabytes := float64(rawSize) / 1e6
	speed := megabytes / median(cri)
	b.report("convert/cri/throughput", speed, "MB/s")
	b.report("convert/json/throughput", megabytes/median(json), "MB/s")
	b.report("convert/cri/vs-containerd", speed/(peerSize/1e6/median(containerd)), "x")
	b.report("convert/cri/vs-copy", median(copied)/median(cri), "x")
	b.report("convert/json/vs-cri", median(cri)/median(json), "x")
	b.report("convert/allocs", median(allocs)/megabytes, "allocs/MB")
	return nil
}

func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}

// conversion is what converting a raw log has cost.
type conversion struct {
	took       time.Duration
	allocs     uint64
	outputSize int64
}

// convertOnce converts the file raw, as a worker does that has fallen behind.
func convertOnce(ctx context.Context, b *bench, format converter.Format, raw string) (c conversion, err error) {
	m, dir, err := newManager(b, "convert", format)
	if err != nil {
		return c, err
	}
	defer os.RemoveAll(dir)
	defer m.Close(ctx)
	v, err := newVM(m, dir, "vm")
	if err != nil {
		return c, err
	}
	if err := v.begin(ctx); err != nil { // waits for the disk
		return c, err
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	start := time.Now()
	if err := os.Link(raw, v.raw); err != nil {
		return c, err
	}
	if err := m.Drain(ctx, "vm"); err != nil {
		return c, err
	}
	c.took = time.Since(start)
	runtime.ReadMemStats(&after)
	c.allocs = after.Mallocs - before.Mallocs
	fi, err := os.Stat(v.log)
	if err != nil {
		return c, err
	}
	c.outputSize = fi.Size()
	return c, nil
}

// containerdOnce has containerd's logger write text to a file.
func containerdOnce(b *bench, text []byte) (time.Duration, error) {
	path := filepath.Join(b.dir, "containerd.log")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o640)
	if err != nil {
		return 0, err
	}
	defer os.Remove(path)
	defer f.Close()
	start := time.Now()
	w, stopped := crio.NewCRILogger(path, f, crio.Stdout, converter.DefaultMaxLine)
	if _, err := io.Copy(w, bytes.NewReader(text)); err != nil {
		return 0, err
	}
	if err := w.Close(); err != nil {
		return 0, err
	}
	<-stopped
	return time.Since(start), nil
}

// copyOnce copies a file, through user space as a converter must.
func copyOnce(b *bench, from string) (time.Duration, error) {
	to := filepath.Join(b.dir, "to")
	defer os.Remove(to)
	in, err := os.Open(from)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	start := time.Now()
	out, err := os.Create(to)
	if err != nil {
		return 0, err
	}
	defer out.Close()
	buf := make([]byte, 512<<10)
	// Struct wrappers: no copy_file_range(2), which would not move a byte.
	if _, err := io.CopyBuffer(struct{ io.Writer }{out}, struct{ io.Reader }{in}, buf); err != nil {
		return 0, fmt.Errorf("copy: %w", err)
	}
	return time.Since(start), nil
}
