package proxy_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
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

// foundRig is a proxy that has found the VM of pod "pod", whose logs are there.
func foundRig(t *testing.T, again time.Duration) *rig {
	r := newRig(t, nil, nil)
	r.stop()
	r.again = again
	lists(r.backend, "pod")
	if err := os.WriteFile(r.podLog("pod", "0.log"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r.writeRaw("uid-pod/_0.log", "boot\n")
	r.start()
	eventually(t, "it is found", func() bool { return r.onRecord("pod") })
	return r
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

// TestRuntimeSaysUnavailable has the runtime itself say so, when it has just
// started.
func TestRuntimeSaysUnavailable(t *testing.T) {
	r := foundRig(t, 20*time.Millisecond)
	var asked atomic.Bool
	r.backend.Handle("ListPodSandbox", proxytest.Typed(func(context.Context, *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
		if asked.CompareAndSwap(false, true) {
			return nil, status.Error(codes.Unavailable, "server is not initialized yet")
		}
		return &runtimeapi.ListPodSandboxResponse{}, nil
	}))
	log := r.podLog("pod", "0.log")
	r.loseState()
	r.writeRaw("uid-pod/_0.log", "goes on\n")
	eventually(t, "the line", func() bool { return slices.Contains(contents(t, log), "goes on") })
}

// TestStopWhileLooking stops the proxy while it looks at VMs, each of which takes
// its time: the rest of them is for the next process.
func TestStopWhileLooking(t *testing.T) {
	asked := make(chan bool, 10)
	r := newRig(t, nil, nil)
	r.stop()
	fake := &domains{asking: func(ctx context.Context) {
		asked <- true
		<-ctx.Done()
	}}
	r.libvirt = fake
	lists(r.backend, "a", "b", "c")
	r.start()
	<-asked
	r.stop()
	if n := fake.asked.Load(); n != 1 {
		t.Errorf("libvirt was asked %d times", n)
	}
}
