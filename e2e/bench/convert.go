package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/cri-logproxy/cri-logproxy/converter"
)

// rawSize is how much is converted for a throughput, in bytes.
const rawSize = 256 << 20

// throughput measures raw log to container log, file to file.
func throughput(ctx context.Context, b *bench) error {
	text := consoleText(rawSize)
	for _, format := range []converter.Format{converter.CRI, converter.DockerJSON} {
		var rates []float64
		for i := range 3 {
			rate, err := convertOnce(ctx, b, fmt.Sprintf("%v%d", format, i), format, text)
			if err != nil {
				return err
			}
			rates = append(rates, rate)
		}
		slices.Sort(rates)
		b.report(fmt.Sprintf("convert/%v/throughput", format), rates[1], "MB/s")
	}
	return nil
}

// convertOnce returns the MB of raw log converted per second.
func convertOnce(ctx context.Context, b *bench, name string, format converter.Format, text []byte) (rate float64, err error) {
	m, dir, err := newManager(b, name, format)
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	defer m.Close(ctx)
	v, err := newVM(m, dir, name)
	if err != nil {
		return 0, err
	}
	if err := os.WriteFile(v.raw, text, 0o600); err != nil {
		return 0, err
	}
	start := time.Now()
	if err := v.begin(ctx); err != nil {
		return 0, err
	}
	if err := m.Drain(ctx, name); err != nil {
		return 0, err
	}
	return float64(len(text)) / 1e6 / time.Since(start).Seconds(), nil
}
