// Command demo boots a real VM behind cri-logproxy and reads its log as kubelet
// does. It needs root, libvirt and QEMU, and leaves nothing behind.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cri-logproxy/cri-logproxy/e2e/await"
	"github.com/cri-logproxy/cri-logproxy/e2e/guest"
	"github.com/cri-logproxy/cri-logproxy/e2e/need"
	"github.com/cri-logproxy/cri-logproxy/e2e/node"
	"github.com/cri-logproxy/cri-logproxy/e2e/pod"
)

// patience bounds the whole demo. It takes about 15 s.
const patience = 5 * time.Minute

func main() {
	proxy := flag.String("proxy", "", "`path` of the cri-logproxy binary")
	flag.Parse()
	if *proxy == "" || flag.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "usage: demo --proxy=PATH")
		os.Exit(2)
	}
	// SIGPIPE, which `demo | head` gets, becomes an error of a write.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := run(ctx, *proxy, os.Stdout); err != nil {
		if errors.Is(ctx.Err(), context.Canceled) {
			fmt.Fprintln(os.Stderr, "\ninterrupted; all that was started is stopped and removed")
			os.Exit(130)
		}
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// demo shows what it does.
type demo struct {
	out   io.Writer
	start time.Time
}

// step says what comes next.
func (d *demo) step(format string, args ...any) {
	fmt.Fprintf(d.out, "%5.1fs  %s\n", time.Since(d.start).Seconds(), fmt.Sprintf(format, args...))
}

// detail adds to the step before.
func (d *demo) detail(format string, args ...any) {
	fmt.Fprintf(d.out, "          %s\n", fmt.Sprintf(format, args...))
}

func run(ctx context.Context, proxy string, out io.Writer) (err error) {
	if err := need.Root(); err != nil {
		return err
	}
	// Nobody reads any more: stop, and clean up.
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	out = &untilBroken{out: out, broken: cancel}
	defer func() {
		if cause := context.Cause(ctx); err != nil && errors.Is(cause, errBroken) {
			err = cause
		}
	}()
	d := &demo{out: out, start: time.Now()}
	d.step("node: libvirtd, the VM runtime, cri-logproxy between it and us (we play kubelet)")
	var proxyLog lockedBuffer
	n, err := node.Start(ctx, node.Options{Proxy: proxy, ProxyArgs: []string{"-v=1"}, ProxyLog: &proxyLog})
	if err != nil {
		return errors.New(strings.TrimSpace(fmt.Sprintf("start the node: %v\n%s", err, proxyLog.Bytes())))
	}
	defer func() {
		if err != nil && ctx.Err() == nil {
			err = fmt.Errorf("%w\nwhat the proxy logged:\n%s", err, proxyLog.Bytes())
		}
		d.step("clean up")
		err = errors.Join(err, n.Stop())
	}()
	d.detail("kubelet's --container-runtime-endpoint   unix://%s", n.Socket)
	d.detail("the proxy's --runtime-endpoint           unix://%s", n.RuntimeSocket)
	d.detail("--vm-log-location (to the runtime)       %s", node.VMLogLocation)
	d.detail("--vm-log-dir (the same, on this host)    %s", n.RawLogs)

	p, err := pod.New(ctx, n.Socket, n.PodLogs, "demo")
	if err != nil {
		return err
	}
	defer p.CRI.Close(context.WithoutCancel(ctx))
	d.step("RunPodSandbox")
	if err := p.Run(ctx); err != nil {
		return err
	}
	d.step("CreateContainer: kubelet asks for the log %s/0.log; the runtime writes the raw log elsewhere", pod.ContainerName)
	boot := guest.Boot{Marker: "demo", Lines: 5, Login: true}
	// loglevel: a little of the kernel's own boot, too.
	if err := p.Create(ctx, 0, append(boot.Args(), "loglevel=6")); err != nil {
		return err
	}
	record, err := n.Mapping(p.ID)
	if err != nil {
		return err
	}
	logPath, err := p.LogPath(ctx)
	if err != nil {
		return err
	}
	rawPath := filepath.Join(n.RawLogs, record.RawLogs[0])
	d.detail("recorded: raw log        %s", rawPath)
	d.detail("       ▸  container log  %s", record.ContainerLog)
	d.step("StartContainer: the VM boots; this is kubelet's log reader, following %s", filepath.Base(logPath))
	started := time.Now()
	if err := p.Start(ctx); err != nil {
		return err
	}
	console := &consoleWriter{out: out}
	follow := make(chan error, 1)
	go func() { follow <- p.Logs(ctx, true, console, console) }()
	if err := waitFor(ctx, console, guest.LoginPrompt, follow); err != nil {
		return err
	}
	d.finishLine(console)
	d.step("the prompt is there, without a newline, like all that a console shows; the VM's first line came %.1fs after StartContainer", console.firstAt().Sub(started).Seconds())

	d.step("StopContainer")
	if err := p.Stop(ctx, 0); err != nil {
		return err
	}
	if err := <-follow; err != nil {
		return fmt.Errorf("follow the log: %w", err)
	}
	d.step("the reader has seen the container exit and is done; side by side, the last lines of both files:")
	if err := d.sideBySide(rawPath, logPath); err != nil {
		return err
	}
	d.step("RemoveContainer, RemovePodSandbox: kubelet deletes the log, the runtime the raw log, the proxy its record")
	if err := p.Remove(ctx); err != nil {
		return err
	}
	if _, err := os.Stat(rawPath); !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("the raw log is still there: %v", err)
	}
	return nil
}

// waitFor waits until the console has shown text, or its reader has ended.
func waitFor(ctx context.Context, c *consoleWriter, text string, follow <-chan error) error {
	return await.Condition(ctx, fmt.Sprintf("%q on the VM's console", text), func() (bool, error) {
		select {
		case err := <-follow:
			return false, fmt.Errorf("the log ends before %q: %w", text, err)
		default:
			return c.contains([]byte(text)), nil
		}
	})
}

// finishLine ends a line that the console left open.
func (d *demo) finishLine(c *consoleWriter) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.lineStart() {
		fmt.Fprintln(d.out)
		c.seen = append(c.seen, '\n')
	}
}

// sideBySide shows the last lines of the raw log and of the container log.
func (d *demo) sideBySide(rawPath, logPath string) error {
	raw, err := lastLines(rawPath, 3)
	if err != nil {
		return err
	}
	log, err := lastLines(logPath, 3)
	if err != nil {
		return err
	}
	for i := range max(len(raw), len(log)) {
		cell := func(lines [][]byte) []byte {
			if i < len(lines) {
				return lines[i]
			}
			return nil
		}
		d.detail("%-28.28q ▸ %s", cell(raw), bytes.TrimSuffix(cell(log), []byte("\n")))
	}
	return nil
}

func lastLines(path string, n int) ([][]byte, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	lines := bytes.SplitAfter(b, []byte("\n"))
	if len(lines[len(lines)-1]) == 0 {
		lines = lines[:len(lines)-1]
	}
	return lines[max(0, len(lines)-n):], nil
}

// consoleWriter shows a VM's console, set off from the steps.
type consoleWriter struct {
	out io.Writer

	mu    sync.Mutex
	seen  []byte
	first time.Time
}

func (c *consoleWriter) lineStart() bool {
	return len(c.seen) == 0 || c.seen[len(c.seen)-1] == '\n'
}

func (c *consoleWriter) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.first.IsZero() {
		c.first = time.Now()
	}
	for line := range bytes.Lines(b) {
		if c.lineStart() {
			fmt.Fprint(c.out, "        │ ")
		}
		c.seen = append(c.seen, line...)
		if _, err := c.out.Write(line); err != nil {
			return 0, err
		}
	}
	return len(b), nil
}

func (c *consoleWriter) contains(text []byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return bytes.Contains(c.seen, text)
}

func (c *consoleWriter) firstAt() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.first
}

// lockedBuffer keeps what the proxy logs, for the case that something fails.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lockedBuffer) Bytes() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Clone(l.b.Bytes())
}

var errBroken = errors.New("the output cannot be written")

// untilBroken passes writes on until one fails, and then calls broken.
type untilBroken struct {
	out    io.Writer
	broken func(error)
}

func (u *untilBroken) Write(b []byte) (int, error) {
	n, err := u.out.Write(b)
	if err != nil {
		u.broken(fmt.Errorf("%w: %w", errBroken, err))
	}
	return n, err
}
