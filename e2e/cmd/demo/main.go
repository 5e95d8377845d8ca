// Command demo boots a real VM behind cri-logproxy and reads its log as kubelet
// does; in mode both also somebody works at its console. It needs root, libvirt
// and QEMU, and leaves nothing behind.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/cri-logproxy/cri-logproxy/e2e/internal/printed"
	"github.com/cri-logproxy/cri-logproxy/e2e/need"
	"github.com/cri-logproxy/cri-logproxy/e2e/node"
	"github.com/cri-logproxy/cri-logproxy/proxy/logmap"
)

// patience bounds the whole demo. It takes about 15 s.
const patience = 5 * time.Minute

func main() {
	proxy := flag.String("proxy", "", "`path` of the cri-logproxy binary")
	mode := flag.String("mode", string(logmap.ModeFile), "`mode` to show: file or both")
	flag.Parse()
	if *proxy == "" || flag.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "usage: demo --proxy=PATH [--mode=file|both]")
		os.Exit(2)
	}
	story, ok := map[logmap.Mode]func(*demo, context.Context) error{
		logmap.ModeFile: (*demo).file, logmap.ModeBoth: (*demo).both,
	}[logmap.Mode(*mode)]
	if !ok {
		fmt.Fprintf(os.Stderr, "demo: there is no demo of mode %q; choose file or both: make demo MODE=both\n", *mode)
		os.Exit(2)
	}
	// SIGPIPE, which `demo | head` gets, becomes an error of a write.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := run(ctx, *proxy, story, os.Stdout); err != nil {
		if errors.Is(ctx.Err(), context.Canceled) {
			fmt.Fprintln(os.Stderr, "\ninterrupted; all that was started is stopped and removed")
			os.Exit(130)
		}
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, proxy string, story func(*demo, context.Context) error, screen *os.File) (err error) {
	if err := need.Root(); err != nil {
		return err
	}
	// Nobody reads any more: stop, and clean up.
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer func() {
		if cause := context.Cause(ctx); err != nil && errors.Is(cause, errBroken) {
			err = cause
		}
	}()
	return story(&demo{proxy: proxy, screen: screen, out: &untilBroken{out: screen, broken: cancel}, start: time.Now()}, ctx)
}

// demo shows what it does.
type demo struct {
	proxy  string    // the path of the cri-logproxy binary
	screen *os.File  // where out leads in the end
	out    io.Writer // gets whole lines
	start  time.Time
}

// step says what comes next.
func (d *demo) step(format string, args ...any) {
	fmt.Fprintf(d.out, "%5.1fs  %s\n", time.Since(d.start).Seconds(), fmt.Sprintf(format, args...))
}

// detail adds to the step before.
func (d *demo) detail(format string, args ...any) {
	fmt.Fprintf(d.out, "          %s\n", fmt.Sprintf(format, args...))
}

// onNode starts a node for a story, and cleans up after it.
func (d *demo) onNode(ctx context.Context, o node.Options, story func(*node.Node) error) (err error) {
	var proxyLog printed.Buffer
	o.Proxy, o.ProxyArgs, o.ProxyLog = d.proxy, []string{"-v=1"}, &proxyLog
	n, err := node.Start(ctx, o)
	if err != nil {
		return errors.New(strings.TrimSpace(fmt.Sprintf("start the node: %v\n%s", err, proxyLog.String())))
	}
	defer func() {
		if err != nil && ctx.Err() == nil {
			err = fmt.Errorf("%w\nwhat the proxy logged:\n%s", err, proxyLog.String())
		}
		d.step("clean up")
		err = errors.Join(err, n.Stop())
	}()
	return story(n)
}
