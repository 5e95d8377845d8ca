package proxy_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
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

// kept says that nothing of pod "pod" is forgotten.
func (r *rig) kept() bool {
	_, err := os.Stat(filepath.Join(r.cfg.VMLogDir, "uid-pod", "_0.log"))
	return r.onRecord("pod") && err == nil
}

// forgotten says that nothing is left of pod "pod".
func (r *rig) forgotten() bool {
	_, c := r.logs.Container("c-pod")
	_, s := r.logs.Sandbox("uid-pod")
	_, err := os.Stat(filepath.Join(r.cfg.VMLogDir, "uid-pod"))
	return !c && !s && errors.Is(err, fs.ErrNotExist)
}

// looks counts how often the proxy has asked what there is.
func (r *rig) looks() (n int) {
	for _, c := range r.backend.Journal() {
		if strings.HasSuffix(c.Method, "/ListContainers") {
			n++
		}
	}
	return n
}

// awaitLooks waits until the proxy has asked so often.
func (r *rig) awaitLooks(n int) {
	r.t.Helper()
	eventually(r.t, "the proxy looks again", func() bool { return r.looks() >= n })
}

// TestGone has a VM go while the proxy is down: what is on record goes too, and
// its raw logs, but not at the first look.
func TestGone(t *testing.T) {
	r := foundRig(t, 20*time.Millisecond)
	r.stop()
	lists(r.backend, "other")
	r.start()
	eventually(t, "it is forgotten", r.forgotten)
	if _, err := os.Stat(r.podLog("pod", "0.log")); err != nil {
		t.Errorf("its log belongs to kubelet: %v", err)
	}
	if !r.onRecord("other") {
		t.Error("and the other one too")
	}
}

// TestMissingAtOnce has a runtime hang up again and again while it does not know
// all yet: each time it is looked at, but all in less than reconcileAgain.
func TestMissingAtOnce(t *testing.T) {
	t.Parallel()
	r := foundRig(t, 0)
	lists(r.backend, "other")
	looks := r.looks()
	r.restart()
	r.awaitLooks(looks + 1)
	for n := range 2 { // at the third look, the second is over
		r.backend.Stop()
		if err := r.backend.Restart(); err != nil {
			t.Fatal(err)
		}
		r.awaitLooks(looks + 2 + n)
	}
	if !r.kept() {
		t.Error("forgotten within seconds")
	}
}

// TestNothingListed has another runtime at the socket for a while, or CRIProxy
// without Virtlet's containers. What is gone is forgotten when a VM is listed.
func TestNothingListed(t *testing.T) {
	r := foundRig(t, 20*time.Millisecond)
	lists(r.backend)
	r.restart()
	r.awaitLooks(r.looks() + 5)
	if !r.kept() {
		t.Error("forgotten, because another runtime was there")
	}
	lists(r.backend, "other")
	eventually(t, "it is forgotten", r.forgotten)
}

// TestRunsUnlisted has a VM run that the runtime does not list.
func TestRunsUnlisted(t *testing.T) {
	r := foundRig(t, 20*time.Millisecond)
	r.stop()
	fake := &domains{}
	r.libvirt = fake
	lists(r.backend, "other")
	r.start()
	eventually(t, "libvirt is asked", func() bool { return fake.asked.Load() > 1 }) // once for the other one
	r.awaitLooks(r.looks() + 5)
	if !r.kept() {
		t.Error("forgotten, and it runs")
	}
	fake.stopped.Store(true)
	eventually(t, "it is forgotten", r.forgotten)
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
