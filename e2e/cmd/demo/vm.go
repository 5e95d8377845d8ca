package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/cri-logproxy/cri-logproxy/e2e/await"
	"github.com/cri-logproxy/cri-logproxy/e2e/guest"
	"github.com/cri-logproxy/cri-logproxy/e2e/internal/printed"
	"github.com/cri-logproxy/cri-logproxy/e2e/node"
	"github.com/cri-logproxy/cri-logproxy/e2e/pod"
)

const podName = "demo"

// bootArgs make the VM say something and ask for a login.
func bootArgs() []string {
	boot := guest.Boot{Marker: "demo", Lines: 5, Login: true}
	// loglevel: a little of the kernel's own boot, too.
	return append(boot.Args(), "loglevel=6")
}

// files are the two files of a VM's log, as this host sees them.
type files struct {
	raw string // what libvirt or QEMU writes
	log string // what kubelet reads
}

// filesOf says where the log of a pod's container is.
func filesOf(ctx context.Context, n *node.Node, p *pod.Pod) (files, error) {
	record, err := n.Mapping(p.ID)
	if err != nil {
		return files{}, err
	}
	if len(record.RawLogs) == 0 {
		return files{}, fmt.Errorf("container %s has no raw log on record: %s", p.ID, record.Notice)
	}
	log, err := p.LogPath(ctx)
	if err != nil {
		return files{}, err
	}
	return files{raw: filepath.Join(n.RawLogs, record.RawLogs[0]), log: log}, nil
}

// readLines returns a file's lines, with their newlines.
func readLines(path string) ([]string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	lines := strings.SplitAfter(string(b), "\n")
	if lines[len(lines)-1] == "" {
		lines = lines[:len(lines)-1]
	}
	return lines, nil
}

// remove removes the pod, and looks whether its raw log went with it.
func remove(ctx context.Context, p *pod.Pod, f files) error {
	if err := p.Remove(ctx); err != nil {
		return err
	}
	if _, err := os.Stat(f.raw); !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("the raw log is still there: %v", err)
	}
	return nil
}

// reader is kubelet's log reader, following the log of a VM.
type reader struct {
	text  printed.Buffer // what it has shown of the VM's output
	ended chan error
}

// follow starts a reader that shows the log on screen.
func follow(ctx context.Context, p *pod.Pod, screen io.Writer) *reader {
	r := &reader{ended: make(chan error, 1)}
	go func() { r.ended <- p.Logs(ctx, true, io.MultiWriter(screen, &r.text), screen) }()
	return r
}

// waitText waits until the reader has shown text.
func (r *reader) waitText(ctx context.Context, text string) error {
	return await.Condition(ctx, fmt.Sprintf("%q in the VM's log", text), func() (bool, error) {
		select {
		case err := <-r.ended:
			return false, fmt.Errorf("the log ends without it: %w", err)
		default:
			return strings.Contains(r.text.String(), text), nil
		}
	})
}

// end waits until the reader has ended by itself.
func (r *reader) end() error {
	if err := <-r.ended; err != nil {
		return fmt.Errorf("follow the log: %w", err)
	}
	return nil
}
