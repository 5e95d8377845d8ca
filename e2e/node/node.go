// Package node puts the parts of a node together that matter to a VM's log: a
// private libvirtd, the VM runtime, and cri-logproxy as a process of its own
// between it and whoever plays kubelet. All of it lives in one temporary
// directory.
package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/cri-logproxy/cri-logproxy/e2e/cluster/box"
	"github.com/cri-logproxy/cri-logproxy/e2e/guest"
	"github.com/cri-logproxy/cri-logproxy/e2e/libvirtd"
	"github.com/cri-logproxy/cri-logproxy/e2e/vmruntime"
	"github.com/cri-logproxy/cri-logproxy/proxy/logmap"
)

// VMLogLocation is the directory of the raw logs as libvirtd and the runtime
// see it, in mode file. The host sees it elsewhere, as with Virtlet's DaemonSet.
const VMLogLocation = "/var/log/vms"

// Options of a Node.
type Options struct {
	// Proxy is the path of the cri-logproxy binary.
	Proxy string
	// Box is where the proxy runs, with the box's /var/log/pods; nil: here.
	Box *box.Box
	// ProxyArgs are further flags for it.
	ProxyArgs []string
	// ProxyActivated is [Proxy.Activated].
	ProxyActivated bool
	// ProxyLog gets what the proxy logs; nil for nothing.
	ProxyLog io.Writer
	// Era is what the runtime imitates.
	Era vmruntime.Era
	// PTY has the runtime put consoles on ptys instead of files.
	PTY bool
	// LogMode is the proxy's --log-mode; "" for its default. Any but pty needs
	// libvirt where the runtime's consoles are ptys.
	LogMode logmap.Mode
	// Libvirt are the options of libvirtd.
	Libvirt libvirtd.Options
	// Runtime may change the options of the VM runtime.
	Runtime func(*vmruntime.Options)
}

// Node is a running node. Its fields may be read, not changed.
type Node struct {
	// Dir holds everything but libvirt's own files.
	Dir string
	// Libvirt runs the VMs.
	Libvirt *libvirtd.Instance
	// Runtime is what the proxy stands in front of.
	Runtime *vmruntime.Runtime
	// Proxy stands between it and who calls Socket.
	Proxy *Proxy
	// Socket is where the proxy serves CRI.
	Socket string
	// RuntimeSocket is where the runtime does.
	RuntimeSocket string
	// PodLogs is kubelet's podLogsDir, as this process sees it.
	PodLogs string
	// StateDir is the proxy's.
	StateDir string
	// RawLogs is VMLogLocation as the host sees it; "" where nothing is logged.
	RawLogs string

	options Options
	runtime vmruntime.Options
}

// Start brings a node up. The caller must Stop it.
func Start(ctx context.Context, o Options) (n *Node, err error) {
	parent := "/tmp" // short: it holds sockets
	if o.Box != nil {
		parent = o.Box.Dir // and goes with it, also when we are killed
	}
	dir, err := os.MkdirTemp(parent, "clp")
	if err != nil {
		return nil, err
	}
	n = &Node{
		Dir:           dir,
		Socket:        filepath.Join(dir, "cri-logproxy.sock"),
		RuntimeSocket: filepath.Join(dir, "virtlet.sock"),
		PodLogs:       filepath.Join(dir, "pods"),
		StateDir:      filepath.Join(dir, "state"),
		options:       o,
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.Stop())
			n = nil
		}
	}()
	if o.Box != nil {
		n.PodLogs = o.Box.Path(box.PodLogs)
	}
	if err := os.MkdirAll(n.PodLogs, 0o750); err != nil {
		return n, err
	}
	g, err := guest.Files(ctx, dir)
	if err != nil {
		return n, err
	}
	// Its libvirtd may see the guest's files: /tmp is shared.
	if n.Libvirt, err = libvirtd.Start(ctx, o.Libvirt); err != nil {
		return n, err
	}
	n.runtime = vmruntime.Options{
		Era: o.Era, Listen: n.RuntimeSocket, Libvirt: n.Libvirt.Socket, Guest: g, StateDir: filepath.Join(dir, "runtime"),
		LogLocation: "pty",
	}
	if !o.PTY || o.LogMode != "" {
		n.RawLogs = filepath.Join(n.Libvirt.Dir, VMLogLocation)
		if err := os.MkdirAll(n.RawLogs, 0o755); err != nil {
			return n, err
		}
	}
	if !o.PTY {
		n.runtime.LogLocation, n.runtime.LogDir = VMLogLocation, n.RawLogs
	}
	if o.Runtime != nil {
		o.Runtime(&n.runtime)
	}
	if err := n.StartRuntime(); err != nil {
		return n, err
	}
	n.Proxy = &Proxy{
		Binary: o.Proxy, Args: n.proxyArgs(), Socket: n.Socket, Log: o.ProxyLog, Box: o.Box, Activated: o.ProxyActivated,
	}
	return n, n.Proxy.Start(ctx)
}

// StartRuntime starts the runtime, also again after StopRuntime.
func (n *Node) StartRuntime() (err error) {
	if n.Runtime, err = vmruntime.New(n.runtime); err != nil {
		return err
	}
	return n.Runtime.Start()
}

// ReplaceRuntime stops the runtime and starts one of another era in its place.
func (n *Node) ReplaceRuntime(era vmruntime.Era) error {
	if err := n.StopRuntime(); err != nil {
		return err
	}
	n.runtime.Era = era
	return n.StartRuntime()
}

// StopRuntime stops the runtime. Its VMs go on.
func (n *Node) StopRuntime() error {
	if n.Runtime == nil {
		return nil
	}
	defer func() { n.Runtime = nil }()
	return n.Runtime.Close()
}

// proxyArgs are the flags of the proxy.
func (n *Node) proxyArgs() []string {
	podLogs := n.PodLogs
	if n.options.Box != nil {
		podLogs = box.PodLogs
	}
	args := []string{
		"--runtime-endpoint=unix://" + n.RuntimeSocket,
		"--pod-logs-dir=" + podLogs, "--state-dir=" + n.StateDir, "--libvirt-socket=" + n.Libvirt.Socket,
	}
	if n.options.LogMode != "" {
		args = append(args, "--log-mode="+string(n.options.LogMode))
	}
	if n.RawLogs == "" {
		args = append(args, "--vm-log-location=pty")
	} else {
		args = append(args, "--vm-log-location="+VMLogLocation, "--vm-log-dir="+n.RawLogs)
	}
	return append(args, n.options.ProxyArgs...)
}

// StartProxy starts the proxy, also again.
func (n *Node) StartProxy(ctx context.Context) error { return n.Proxy.Start(ctx) }

// RestartProxy stops the proxy and starts it with other further flags.
func (n *Node) RestartProxy(ctx context.Context, args ...string) error {
	if err := n.StopProxy(); err != nil {
		return err
	}
	n.options.ProxyArgs = args
	n.Proxy.Args = n.proxyArgs()
	return n.StartProxy(ctx)
}

// StopProxy ends the proxy as systemd does, and returns what it exited with.
func (n *Node) StopProxy() error { return n.Proxy.Stop() }

// KillProxy ends the proxy as a crash does.
func (n *Node) KillProxy() { n.Proxy.Kill() }

// Mapping returns what the proxy has on record for a container.
func (n *Node) Mapping(containerID string) (logmap.Container, error) {
	containers, err := logmap.Read(n.StateDir)
	if err != nil {
		return logmap.Container{}, err
	}
	for _, c := range containers {
		if c.ID == containerID {
			return c, nil
		}
	}
	return logmap.Container{}, fmt.Errorf("container %s is not on record in %s", containerID, n.StateDir)
}

// Stop ends everything and removes Dir.
func (n *Node) Stop() error {
	var err error
	if n.Proxy != nil {
		err = n.Proxy.Close()
	}
	err = errors.Join(err, n.StopRuntime())
	if n.Libvirt != nil {
		err = errors.Join(err, n.Libvirt.Stop())
	}
	return errors.Join(err, os.RemoveAll(n.Dir))
}
