// Package cluster brings up a node as it is in production, kubelet in front of
// cri-logproxy in front of the VM runtime or of containerd, and with
// [Options.API] a cluster around it.
//
// There are two tiers. A standalone kubelet with static pods is there within a
// second or two, and has all that matters to a log: rotation, links, the handler
// behind `kubectl logs`. The control plane, a few seconds more, is for kubectl.
package cluster

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/cri-logproxy/cri-logproxy/e2e/cluster/binaries"
	"github.com/cri-logproxy/cri-logproxy/e2e/cluster/box"
	"github.com/cri-logproxy/cri-logproxy/e2e/cluster/containers"
	"github.com/cri-logproxy/cri-logproxy/e2e/cluster/control"
	"github.com/cri-logproxy/cri-logproxy/e2e/cluster/kubelet"
	"github.com/cri-logproxy/cri-logproxy/e2e/guest"
	"github.com/cri-logproxy/cri-logproxy/e2e/node"
	"github.com/cri-logproxy/cri-logproxy/e2e/pod"
)

// Namespace is where all pods are.
const Namespace = "default"

// Runtime is what the proxy stands in front of.
type Runtime int

// The runtimes.
const (
	VMs              Runtime = iota // e2e/vmruntime
	Containerd                      // the newest
	DebianContainerd                // Debian's, older by years
)

// Options of a Cluster.
type Options struct {
	// API has a control plane.
	API bool
	// Runtime is the runtime.
	Runtime Runtime
	// Node are the options of the proxy, and of the VM runtime.
	Node node.Options
	// Kubelet are kubelet's; the paths in it are set here.
	Kubelet kubelet.Options
	// Progress gets a line for each step; nil for nothing.
	Progress io.Writer
}

// Cluster is a running cluster of one node. Its fields may be read, not changed.
type Cluster struct {
	Box        *box.Box
	Node       *node.Node             // nil without VMs
	Containerd *containers.Containerd // nil with VMs
	Proxy      *node.Proxy
	Control    *control.Plane // nil without Options.API
	Kubelet    *kubelet.Kubelet

	progress io.Writer
	began    time.Time
}

// Start brings a cluster up. The caller must Stop it.
func Start(ctx context.Context, o Options) (_ *Cluster, err error) {
	c := &Cluster{progress: o.Progress, began: time.Now()}
	if c.progress == nil {
		c.progress = io.Discard
	}
	programs, err := binaries.Kubernetes.Find(ctx)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Stop())
		}
	}()
	if c.Box, err = box.Start(ctx); err != nil {
		return nil, err
	}
	if err := c.startRuntime(ctx, o); err != nil {
		return nil, err
	}
	if o.API {
		c.step("etcd, kube-apiserver")
		if c.Control, err = control.Start(ctx, c.Box, programs); err != nil {
			return nil, err
		}
		o.Kubelet.Kubeconfig = c.Control.Kubeconfig
	}
	c.step("kubelet")
	o.Kubelet.Program, o.Kubelet.Endpoint = filepath.Join(programs, "kubelet"), c.Proxy.Socket
	if c.Kubelet, err = kubelet.Start(ctx, c.Box, o.Kubelet); err != nil {
		return nil, err
	}
	c.step("up")
	return c, nil
}

// startRuntime starts a runtime and the proxy in front of it.
func (c *Cluster) startRuntime(ctx context.Context, o Options) (err error) {
	o.Node.Box = c.Box
	if o.Runtime == VMs {
		c.step("box, libvirtd, VM runtime, cri-logproxy")
		if c.Node, err = node.Start(ctx, o.Node); err == nil {
			c.Proxy = c.Node.Proxy
		}
		return err
	}
	c.step("box, containerd, cri-logproxy")
	programs := ""
	if o.Runtime == Containerd {
		if programs, err = binaries.Containerd.Find(ctx); err != nil {
			return err
		}
	}
	if c.Containerd, err = containers.Start(ctx, c.Box, programs); err != nil {
		return err
	}
	vmLogs := filepath.Join(c.Box.Dir, "vms")
	if err := os.Mkdir(vmLogs, 0o755); err != nil {
		return err
	}
	c.Proxy = &node.Proxy{
		Binary: o.Node.Proxy, Socket: filepath.Join(c.Box.Dir, "cri-logproxy.sock"),
		Log: o.Node.ProxyLog, Box: c.Box, Activated: o.Node.ProxyActivated,
		Args: append([]string{
			"--runtime-endpoint=unix://" + c.Containerd.Socket, "--intercept=annotation",
			"--pod-logs-dir=" + box.PodLogs, "--state-dir=" + filepath.Join(c.Box.Dir, "state"),
			"--vm-log-location=" + node.VMLogLocation, "--vm-log-dir=" + vmLogs,
		}, o.Node.ProxyArgs...),
	}
	return c.Proxy.Start(ctx)
}

// step tells what comes now.
func (c *Cluster) step(what string) {
	fmt.Fprintf(c.progress, "%5.1fs %s\n", time.Since(c.began).Seconds(), what)
}

// Stop ends everything and removes what it has left. It may be called again.
func (c *Cluster) Stop() error {
	var err error
	if c.Kubelet != nil {
		c.Kubelet.Kill() // what it would still do with the pods is nobody's business
	}
	if c.Control != nil {
		c.Control.Stop()
	}
	if c.Node != nil {
		err = errors.Join(err, c.Node.Stop())
	} else if c.Proxy != nil {
		err = errors.Join(err, c.Proxy.Close())
	}
	if c.Containerd != nil {
		err = errors.Join(err, c.Containerd.Stop())
	}
	if c.Box != nil {
		err = errors.Join(err, c.Box.Stop())
	}
	return err
}

// ContainerLogLink returns what kubelet's link in /var/log/containers to a
// container's log says.
func (c *Cluster) ContainerLogLink(podName, containerID string) (string, error) {
	name := fmt.Sprintf("%s_%s_%s-%s.log", podName, Namespace, pod.ContainerName, containerID)
	return os.Readlink(filepath.Join(c.Box.Path(box.ContainerLogs), name))
}

// VM is a pod that is one VM.
type VM struct {
	Name    string
	Boot    guest.Boot
	Restart string // restartPolicy; "" for Never

	HostNetwork bool
	// Liveness is a file below /var/log without which the VM is taken for dead.
	Liveness string
}

// Manifest returns the pod's manifest.
func (v VM) Manifest() []byte {
	annotations := map[string]string{"kubernetes.io/target-runtime": "virtlet.cloud"}
	container := map[string]any{
		"name": pod.ContainerName, "image": "example.com/guest", "imagePullPolicy": "IfNotPresent",
		"args": v.Boot.Args(),
	}
	if v.Liveness != "" { // a VM cannot be probed, but kubelet itself serves these files
		container["livenessProbe"] = map[string]any{
			"httpGet":       map[string]any{"scheme": "HTTPS", "host": box.NodeIP, "port": 10250, "path": "/logs/" + v.Liveness},
			"periodSeconds": 1, "failureThreshold": 1, "timeoutSeconds": 60,
		}
	}
	return manifest(v.Name, annotations, map[string]any{
		"restartPolicy": cmp.Or(v.Restart, "Never"),
		"hostNetwork":   v.HostNetwork,
		"containers":    []map[string]any{container},
	})
}

// manifest returns the manifest of a pod, with what all pods here have in common
// added to spec.
func manifest(name string, annotations map[string]string, spec map[string]any) []byte {
	spec["nodeName"] = box.NodeName
	spec["automountServiceAccountToken"] = false
	spec["terminationGracePeriodSeconds"] = 1
	b, err := json.MarshalIndent(map[string]any{
		"apiVersion": "v1",
		"kind":       "Pod",
		"metadata":   map[string]any{"name": name, "namespace": Namespace, "annotations": annotations},
		"spec":       spec,
	}, "", "\t")
	if err != nil {
		panic(err) // strings and numbers can be encoded
	}
	return b
}
