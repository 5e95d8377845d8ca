package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"path/filepath"
	"sync"
	"time"

	"github.com/cri-logproxy/cri-logproxy/e2e/guest"
	"github.com/cri-logproxy/cri-logproxy/e2e/node"
	"github.com/cri-logproxy/cri-logproxy/e2e/pod"
)

// file is the story of mode file: a VM boots, and its console is a log.
func (d *demo) file(ctx context.Context) error {
	d.step("node: libvirtd, the VM runtime, cri-logproxy between it and us (we play kubelet)")
	return d.onNode(ctx, node.Options{}, func(n *node.Node) error { return d.fileOn(ctx, n) })
}

func (d *demo) fileOn(ctx context.Context, n *node.Node) error {
	d.detail("kubelet's --container-runtime-endpoint   unix://%s", n.Socket)
	d.detail("the proxy's --runtime-endpoint           unix://%s", n.RuntimeSocket)
	d.detail("--vm-log-location (to the runtime)       %s", node.VMLogLocation)
	d.detail("--vm-log-dir (the same, on this host)    %s", n.RawLogs)

	p, err := pod.New(ctx, n.Socket, n.PodLogs, podName)
	if err != nil {
		return err
	}
	defer p.CRI.Close(context.WithoutCancel(ctx))
	d.step("RunPodSandbox")
	if err := p.Run(ctx); err != nil {
		return err
	}
	d.step("CreateContainer: kubelet asks for the log %s/0.log; the runtime writes the raw log elsewhere", pod.ContainerName)
	if err := p.Create(ctx, 0, bootArgs()); err != nil {
		return err
	}
	f, err := filesOf(ctx, n, p)
	if err != nil {
		return err
	}
	d.detail("recorded: raw log        %s", f.raw)
	d.detail("       ▸  container log  %s", f.log)
	d.step("StartContainer: the VM boots; this is kubelet's log reader, following %s", filepath.Base(f.log))
	started := time.Now()
	if err := p.Start(ctx); err != nil {
		return err
	}
	console := &consoleWriter{out: d.out}
	r := follow(ctx, p, console)
	if err := r.waitText(ctx, guest.LoginPrompt); err != nil {
		return err
	}
	first := console.finishLine()
	d.step("the prompt is there, without a newline, like all that a console shows; the VM's first line came %.1fs after StartContainer", first.Sub(started).Seconds())

	d.step("StopContainer")
	if err := p.Stop(ctx, 0); err != nil {
		return err
	}
	if err := r.end(); err != nil {
		return err
	}
	d.step("the reader has seen the container exit and is done; side by side, the last lines of both files:")
	if err := d.lastOf(f, 3); err != nil {
		return err
	}
	d.step("RemoveContainer, RemovePodSandbox: kubelet deletes the log, the runtime the raw log, the proxy its record")
	return remove(ctx, p, f)
}

// lastOf shows the last n lines of the raw log and of the container log.
func (d *demo) lastOf(f files, n int) error {
	raw, err := readLines(f.raw)
	if err != nil {
		return err
	}
	log, err := readLines(f.log)
	if err != nil {
		return err
	}
	raw, log = raw[max(0, len(raw)-n):], log[max(0, len(log)-n):]
	for i := range max(len(raw), len(log)) {
		cell := func(lines []string) string {
			if i < len(lines) {
				return lines[i]
			}
			return ""
		}
		d.detail("%-28.28q ▸ %s", cell(raw), readable(cell(log)))
	}
	return nil
}

// consoleWriter shows a VM's console, set off from the steps.
type consoleWriter struct {
	out io.Writer

	mu    sync.Mutex
	open  bool // the last line has not ended
	first time.Time
}

func (c *consoleWriter) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.first.IsZero() {
		c.first = time.Now()
	}
	for line := range bytes.Lines(b) {
		if !c.open {
			fmt.Fprint(c.out, "        │ ")
		}
		c.open = !bytes.HasSuffix(line, []byte("\n"))
		if _, err := c.out.Write(line); err != nil {
			return 0, err
		}
	}
	return len(b), nil
}

// finishLine ends a line that the console left open, and returns when its first
// one came.
func (c *consoleWriter) finishLine() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open {
		fmt.Fprintln(c.out)
		c.open = false
	}
	return c.first
}
