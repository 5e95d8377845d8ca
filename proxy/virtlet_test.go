package proxy_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-logproxy/cri-logproxy/proxy"
	"github.com/cri-logproxy/cri-logproxy/proxy/personality"
	"github.com/cri-logproxy/cri-logproxy/proxy/proxytest"
)

// fakeVirtlet is a Virtlet 1.x without VMs: one container, whose ID and first
// attempt stay. e2e/vmruntime is one with VMs.
type fakeVirtlet struct {
	mu       sync.Mutex
	c        *runtimeapi.ContainerStatus // nil: none
	replaces bool                        // as 0.8.2 does: CreateContainer removes the container first
	create   func() error                // called in CreateContainer, after that
	answered func()                      // called in ContainerStatus, when the answer is made
	calls    []string                    // that changed something
	start    error                       // of StartContainer
	starting func()                      // called in StartContainer, before the VM runs
	remove   error                       // of RemoveContainer
	busy     bool                        // only what is asked for by its ID is listed
}

const virtletID = "0d78e70b-0000-5000-8000-123456789012"

// newVirtletRig is a proxy with a personality before a fake Virtlet.
func newVirtletRig(t *testing.T, choice string) (*rig, *fakeVirtlet) {
	t.Helper()
	b, err := proxytest.NewBackend(proxytest.BackendOptions{APIs: []string{proxytest.V1alpha2}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	v := &fakeVirtlet{}
	v.serve(b)
	r := newRig(t, b, func(c *proxy.Config) {
		if c.Personality, err = personality.ParseChoice(choice); err != nil {
			t.Fatal(err)
		}
	})
	return r, v
}

func (v *fakeVirtlet) serve(b *proxytest.Backend) {
	listNothing(b)
	b.Handle("Version", proxytest.Typed(func(context.Context, *runtimeapi.VersionRequest) (*runtimeapi.VersionResponse, error) {
		return &runtimeapi.VersionResponse{Version: "0.1.0", RuntimeName: "virtlet", RuntimeVersion: "0.1.0", RuntimeApiVersion: "0.1.0"}, nil
	}))
	b.Handle("CreateContainer", proxytest.Typed(func(_ context.Context, req *runtimeapi.CreateContainerRequest) (*runtimeapi.CreateContainerResponse, error) {
		if v.replaces {
			v.mu.Lock()
			v.c = nil
			v.mu.Unlock()
		}
		if v.create != nil {
			if err := v.create(); err != nil {
				return nil, err
			}
		}
		v.mu.Lock()
		defer v.mu.Unlock()
		if v.c == nil {
			v.c = &runtimeapi.ContainerStatus{
				Id: virtletID, Metadata: req.Config.Metadata, Annotations: req.Config.Annotations, Labels: podLabels("pod"),
				State: runtimeapi.ContainerState_CONTAINER_CREATED, CreatedAt: 1,
			}
		}
		return &runtimeapi.CreateContainerResponse{ContainerId: virtletID}, nil
	}))
	b.Handle("StartContainer", proxytest.Typed(func(context.Context, *runtimeapi.StartContainerRequest) (*runtimeapi.StartContainerResponse, error) {
		if v.starting != nil {
			v.starting()
		}
		if v.start == nil {
			v.set(runtimeapi.ContainerState_CONTAINER_RUNNING)
		}
		return &runtimeapi.StartContainerResponse{}, v.start
	}))
	b.Handle("StopContainer", proxytest.Typed(func(_ context.Context, req *runtimeapi.StopContainerRequest) (*runtimeapi.StopContainerResponse, error) {
		v.set(runtimeapi.ContainerState_CONTAINER_EXITED)
		v.called("stop " + req.ContainerId)
		return &runtimeapi.StopContainerResponse{}, nil
	}))
	b.Handle("RemoveContainer", proxytest.Typed(func(_ context.Context, req *runtimeapi.RemoveContainerRequest) (*runtimeapi.RemoveContainerResponse, error) {
		v.called("remove " + req.ContainerId)
		if v.remove != nil {
			return nil, v.remove
		}
		v.mu.Lock()
		defer v.mu.Unlock()
		v.c = nil
		return &runtimeapi.RemoveContainerResponse{}, nil
	}))
	b.Handle("ContainerStatus", proxytest.Typed(func(_ context.Context, req *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
		st := v.status(req.ContainerId)
		if v.answered != nil {
			v.answered()
		}
		if st == nil {
			return nil, errors.New("domain not found")
		}
		return &runtimeapi.ContainerStatusResponse{Status: st}, nil
	}))
	b.Handle("ListContainers", proxytest.Typed(func(_ context.Context, req *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
		v.mu.Lock()
		defer v.mu.Unlock()
		id := req.GetFilter().GetId()
		if v.busy && id == "" {
			return nil, errors.New("busy")
		}
		if v.c == nil || id != "" && id != v.c.Id {
			return &runtimeapi.ListContainersResponse{}, nil
		}
		return &runtimeapi.ListContainersResponse{Containers: []*runtimeapi.Container{{
			Id: v.c.Id, PodSandboxId: "uid-pod", Metadata: v.c.Metadata, State: v.c.State, CreatedAt: v.c.CreatedAt,
			Labels: v.c.Labels, Annotations: v.c.Annotations,
		}}}, nil
	}))
}

func podLabels(pod string) map[string]string {
	return map[string]string{
		"io.kubernetes.pod.name": pod, "io.kubernetes.pod.namespace": "ns", "io.kubernetes.pod.uid": "uid-" + pod,
		"io.kubernetes.container.name": "vm",
	}
}

// status is what the runtime says of a container; nil if it does not have it.
func (v *fakeVirtlet) status(id string) *runtimeapi.ContainerStatus {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.c == nil || id != virtletID {
		return nil
	}
	return proto.Clone(v.c).(*runtimeapi.ContainerStatus)
}

func (v *fakeVirtlet) called(what string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.calls = append(v.calls, what)
}

// set puts the VM into a state.
func (v *fakeVirtlet) set(state runtimeapi.ContainerState) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.c != nil {
		v.c.State = state
		if state == runtimeapi.ContainerState_CONTAINER_RUNNING {
			v.c.StartedAt = time.Now().UnixNano()
		}
	}
}

func (v *fakeVirtlet) powerOff() { v.set(runtimeapi.ContainerState_CONTAINER_EXITED) }

// attempt is what kubelet does for a restart: CreateContainer, StartContainer.
func (r *rig) attempt(n uint32) string {
	r.t.Helper()
	id := r.create("pod", n, func(req *runtimeapi.CreateContainerRequest) {
		req.Config.Annotations = map[string]string{"io.kubernetes.container.restartCount": itoa(n)}
	})
	r.startContainer(id)
	return id
}

// listed is what ListContainers tells, each as "<id> <attempt> <state>".
func (r *rig) listed(filter *runtimeapi.ContainerFilter) (list []string) {
	r.t.Helper()
	resp, err := r.client.ListContainers(r.t.Context(), &runtimeapi.ListContainersRequest{Filter: filter})
	if err != nil {
		r.t.Fatal(err)
	}
	for _, c := range resp.Containers {
		list = append(list, c.Id[len(virtletID):]+" "+itoa(c.GetMetadata().GetAttempt())+" "+c.State.String()[len("CONTAINER_"):])
	}
	return list
}
