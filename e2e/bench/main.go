// Command bench measures the converter beside its peers, and calls through the
// proxy beside calls without it, and prints one figure a line:
//
//	name value unit
//
// Arguments are prefixes of the names to measure; without any it measures all.
// MB are 10^6 bytes of raw log. What is compared runs in this process, on the
// same disk, in turns; the proxy, and the runtime behind it, are processes of
// their own, as on a node. docs/design.md says what the figures are.
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
	{"convert/", convert},
	{"latency/", lineVisible},
	{"follow/byte-writes/", byteWrites},
	{"follow/vs-nxadm-tail/", versusTail},
	{"idle/", idle},
	{"fair/", fair},
	{"resume/", resume},
	{"libvirt/ensure-log", ensureLog},
	{"proxy/", forward},
}

// children are what a measurement runs as another process, so that its CPU time
// and memory are not ours.
var children = map[string]func(args []string) error{
	"write-bytes": writeBytes,
	"write-lines": writeLines,
	"write-flood": writeFlood,
	"idle":        idleChild,
	"cri-runtime": criRuntime,
	"cri-proxy":   criProxy,
}

// childEnv names the child that this process is.
const childEnv = "BENCH_CHILD"

// bench is a run of measurements in a directory of its own.
type bench struct{ dir string }

// report prints a figure.
func (b *bench) report(name string, value float64, unit string) {
	fmt.Printf("%s %.4g %s\n", name, value, unit)
}

func main() {
	if name := os.Getenv(childEnv); name != "" {
		if err := children[name](os.Args[1:]); err != nil {
			fmt.Fprintf(os.Stderr, "bench: child %s: %v\n", name, err)
			os.Exit(1)
		}
		return
	}
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
