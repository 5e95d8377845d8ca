// Command cri-logproxy sits between kubelet and a CRI runtime of virtual
// machines and makes `kubectl logs` show their consoles.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"

	"github.com/golang/glog"
)

// Exit codes.
const (
	exitFailure = 1 // it could not do its work
	exitUsage   = 2 // it was not told properly what to do
)

// usageError is a wrong command line.
type usageError struct{ error }

func main() {
	stderr := os.Stderr // see openLog
	err := run(os.Args[1:], os.Stdout)
	glog.Flush()
	if err == nil || errors.Is(err, flag.ErrHelp) {
		return
	}
	var usage usageError
	if errors.As(err, &usage) {
		fmt.Fprintf(stderr, "cri-logproxy: %v (cri-logproxy --help lists the flags)\n", err)
		os.Exit(exitUsage)
	}
	fmt.Fprintf(stderr, "cri-logproxy: %v\n", err)
	os.Exit(exitFailure)
}

func run(args []string, out io.Writer) error {
	if len(args) > 0 {
		switch args[0] {
		case "serve":
			return serve(args[1:], out)
		case "console":
			return console(args[1:], out)
		case "version", "--version", "-version":
			return printVersion(args[1:], out)
		case "help":
			return serve([]string{"--help"}, out)
		}
	}
	return serve(args, out)
}

func printVersion(args []string, out io.Writer) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("version: unexpected argument %q", args[0])}
	}
	version := "unknown"
	if info, ok := debug.ReadBuildInfo(); ok {
		version = info.Main.Version
	}
	_, err := fmt.Fprintf(out, "cri-logproxy %s (%s %s/%s)\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}
