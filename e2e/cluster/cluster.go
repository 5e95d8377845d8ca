// Package cluster brings up a node as it is in production, kubelet in front of
// cri-logproxy in front of the VM runtime, and with [Options.API] a cluster
// around it.
//
// There are two tiers. A standalone kubelet with static pods is there within a
// second or two, and has all that matters to a log: rotation, links, the handler
// behind `kubectl logs`. The control plane, a few seconds more, is for kubectl.
package cluster

import (
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
	"github.com/cri-logproxy/cri-logproxy/e2e/cluster/control"
	"github.com/cri-logproxy/cri-logproxy/e2e/cluster/kubelet"
	"github.com/cri-logproxy/cri-logproxy/e2e/guest"
	"github.com/cri-logproxy/cri-logproxy/e2e/node"
	"github.com/cri-logproxy/cri-logproxy/e2e/pod"
)

// Namespace is where all pods are.
const Namespace = "default"

// Options of a Cluster.
type Options struct {
	// API has a control plane.
	API bool
	// Node are the options of what kubelet stands in front of.
	Node node.Options
	// Kubelet are kubelet's; the paths in it are set here.
	Kubelet kubelet.Options
	// Progress gets a line for each step; nil for nothing.
	Progress io.Writer
}

// Cluster is a running cluster of one node. Its fields may be read, not changed.
type Cluster struct {
	Box     *box.Box
	Node    *node.Node
	Control *control.Plane // nil without Options.API
	Kubelet *kubelet.Kubelet

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
	o.Node.Box = c.Box
	c.step("box, libvirtd, VM runtime, cri-logproxy")
	if c.Node, err = node.Start(ctx, o.Node); err != nil {
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
	o.Kubelet.Program, o.Kubelet.Endpoint = filepath.Join(programs, "kubelet"), c.Node.Socket
	if c.Kubelet, err = kubelet.Start(ctx, c.Box, o.Kubelet); err != nil {
		return nil, err
	}
	c.step("up")
	return c, nil
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
		err = errors.Join(err, c.Control.Stop())
	}
	if c.Node != nil {
		err = errors.Join(err, c.Node.Stop())
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
	restart := v.Restart
	if restart == "" {
		restart = "Never"
	}
	type object = map[string]any
	container := object{
		"name": pod.ContainerName, "image": "example.com/guest", "imagePullPolicy": "IfNotPresent",
		"args": v.Boot.Args(),
	}
	if v.Liveness != "" { // a VM cannot be probed, but kubelet itself serves these files
		container["livenessProbe"] = object{
			"httpGet":       object{"scheme": "HTTPS", "host": box.NodeIP, "port": 10250, "path": "/logs/" + v.Liveness},
			"periodSeconds": 1, "failureThreshold": 1, "timeoutSeconds": 60,
		}
	}
	b, err := json.MarshalIndent(object{
		"apiVersion": "v1",
		"kind":       "Pod",
		"metadata": object{
			"name": v.Name, "namespace": Namespace,
			"annotations": object{"kubernetes.io/target-runtime": "virtlet.cloud"},
		},
		"spec": object{
			"nodeName":                      box.NodeName,
			"automountServiceAccountToken":  false,
			"restartPolicy":                 restart,
			"terminationGracePeriodSeconds": 1,
			"hostNetwork":                   v.HostNetwork,
			"containers":                    []object{container},
		},
	}, "", "\t")
	if err != nil {
		panic(err) // strings and numbers can be encoded
	}
	return b
}
