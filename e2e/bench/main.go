// Command bench measures the converter and prints one figure a line:
//
//	name value unit
//
// Arguments are prefixes of the names to measure; without any it measures all.
// MB are 10^6 bytes of raw log.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
)

// figures are the measurements by their prefix, in the order of their printing.
var figures = []struct {
	prefix  string
	measure func(context.Context, *bench) error
}{
	{"convert/", throughput},
	{"latency/", lineVisible},
}

// bench is a run of measurements in a directory of its own.
type bench struct{ dir string }

// report prints a figure.
func (b *bench) report(name string, value float64, unit string) {
	fmt.Printf("%s %.4g %s\n", name, value, unit)
}

func main() {
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: bench [PREFIX…]")
		for _, f := range figures {
			fmt.Fprintln(os.Stderr, "  "+f.prefix)
		}
	}
	flag.Parse()
	if err := run(context.Background(), flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, prefixes []string) (err error) {
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	for _, f := range figures {
		wanted := func(p string) bool { return strings.HasPrefix(f.prefix, p) || strings.HasPrefix(p, f.prefix) }
		if len(prefixes) > 0 && !slices.ContainsFunc(prefixes, wanted) {
			continue
		}
		if err := f.measure(ctx, &bench{dir}); err != nil {
			return fmt.Errorf("%s: %w", f.prefix, err)
		}
	}
	return nil
}
