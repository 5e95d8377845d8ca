package proxy_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-logproxy/cri-logproxy/libvirt"
	"github.com/cri-logproxy/cri-logproxy/proxy/proxytest"
)

// domains is a libvirt that is asked whether VMs run.
type domains struct {
	stopped atomic.Bool
	asked   atomic.Int32
	asking  func(context.Context) // called in Serial, if not nil
}

func (d *domains) Serial(ctx context.Context, _ string) (libvirt.Serial, error) {
	d.asked.Add(1)
	if d.asking != nil {
		d.asking(ctx)
	}
	return libvirt.Serial{Type: "file", Path: "/var/log/vms/uid-pod/_0.log", Active: !d.stopped.Load()}, ctx.Err()
}

func (d *domains) SetConsole(ctx context.Context, id string, _ libvirt.Console, _ string) (libvirt.Serial, error) {
	return d.Serial(ctx, id)
}

// lists makes the fake runtime one that has pods with a running VM each, called
// c-<pod>.
func lists(b *proxytest.Backend, pods ...string) {
	b.Handle("ListContainers", proxytest.Typed(func(context.Context, *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
		resp := &runtimeapi.ListContainersResponse{}
		for _, pod := range pods {
			resp.Containers = append(resp.Containers, &runtimeapi.Container{
				Id: "c-" + pod, PodSandboxId: "uid-" + pod, State: runtimeapi.ContainerState_CONTAINER_RUNNING, Labels: podLabels(pod),
			})
		}
		return resp, nil
	}))
	b.Handle("ListPodSandbox", proxytest.Typed(func(context.Context, *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
		resp := &runtimeapi.ListPodSandboxResponse{}
		for _, pod := range pods {
			resp.Items = append(resp.Items, &runtimeapi.PodSandbox{Id: "uid-" + pod})
		}
		return resp, nil
	}))
}

// onRecord says that the container and the sandbox of a pod are.
func (r *rig) onRecord(pod string) bool {
	_, c := r.logs.Container("c-" + pod)
	_, s := r.logs.Sandbox("uid-" + pod)
	return c && s
}

// forgotten says that nothing is left of pod "pod".
func (r *rig) forgotten() bool {
	_, c := r.logs.Container("c-pod")
	_, s := r.logs.Sandbox("uid-pod")
	_, err := os.Stat(filepath.Join(r.cfg.VMLogDir, "uid-pod"))
	return !c && !s && errors.Is(err, fs.ErrNotExist)
}

// TestRemovedMeanwhile has kubelet remove a pod that is in the list that the proxy
// looks at.
func TestRemovedMeanwhile(t *testing.T) {
	asked, goOn := make(chan bool, 10), make(chan struct{})
	r := newRig(t, nil, nil)
	r.stop()
	r.libvirt = &domains{asking: func(context.Context) {
		asked <- true
		<-goOn
	}}
	lists(r.backend, "before", "pod", "after")
	r.start()
	<-asked
	if err := r.removeContainer("c-pod"); err != nil {
		t.Fatal(err)
	}
	if _, err := r.client.RemovePodSandbox(t.Context(), &runtimeapi.RemovePodSandboxRequest{PodSandboxId: "uid-pod"}); err != nil {
		t.Fatal(err)
	}
	close(goOn)
	eventually(t, "the proxy has looked at all", func() bool { return r.onRecord("before") && r.onRecord("after") })
	if !r.forgotten() {
		t.Error("the removed pod is on record")
	}
}
