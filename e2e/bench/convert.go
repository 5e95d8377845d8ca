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
	rawSize  = 256 << 20
	peerSize = 16 << 20
	rounds   = 5
)

// convert measures raw log to container log, file to file, the same text
// through containerd's CRI logger, and the copying of a file as large as our
// output. They take turns; each figure is the median of the rounds.
func convert(ctx context.Context, b *bench) error {
	text := consoleText(rawSize)
	raw := filepath.Join(b.dir, "raw.log")
	if err := os.WriteFile(raw, text, 0o600); err != nil {
		return err
	}
	defer os.Remove(raw)
	var cri, json, allocs, containerd, copies []float64
	for range rounds {
		one, err := convertOnce(ctx, b, converter.CRI, raw)
		if err != nil {
			return err
		}
		other, err := convertOnce(ctx, b, converter.DockerJSON, raw)
		if err != nil {
			return err
		}
		peer, err := containerdOnce(b, text[:peerSize])
		if err != nil {
			return err
		}
		copied, err := copyOnce(b, one.outputSize)
		if err != nil {
			return err
		}
		megabytes := float64(len(text)) / 1e6
		cri = append(cri, megabytes/one.took.Seconds())
		json = append(json, megabytes/other.took.Seconds())
		allocs = append(allocs, float64(one.allocs)/megabytes)
		containerd = append(containerd, float64(peerSize)/1e6/peer.Seconds())
		copies = append(copies, copied.Seconds()/one.took.Seconds())
	}
	b.report("convert/cri/throughput", median(cri), "MB/s")
	b.report("convert/json/throughput", median(json), "MB/s")
	b.report("convert/cri/vs-containerd", median(cri)/median(containerd), "x")
	b.report("convert/cri/vs-copy", median(copies), "x")
	b.report("convert/json/vs-cri", median(json)/median(cri), "x")
	b.report("convert/allocs", median(allocs), "allocs/MB")
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

// copyOnce copies a file of the given size, through user space as a converter
// must.
func copyOnce(b *bench, size int64) (time.Duration, error) {
	from, to := filepath.Join(b.dir, "from"), filepath.Join(b.dir, "to")
	if err := os.WriteFile(from, make([]byte, size), 0o600); err != nil {
		return 0, err
	}
	defer os.Remove(from)
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
