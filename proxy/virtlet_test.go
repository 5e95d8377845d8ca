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
	mu     sync.Mutex
	c      *runtimeapi.ContainerStatus // nil: none
	create func() error                // called in CreateContainer
	calls  []string                    // that changed something
	start  error                       // of StartContainer
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
		if v.start == nil {
			v.set(runtimeapi.ContainerState_CONTAINER_RUNNING)
		}
		return &runtimeapi.StartContainerResponse{}, v.start
	}))
	b.Handle("StopContainer", proxytest.Typed(func(context.Context, *runtimeapi.StopContainerRequest) (*runtimeapi.StopContainerResponse, error) {
		v.set(runtimeapi.ContainerState_CONTAINER_EXITED)
		return &runtimeapi.StopContainerResponse{}, nil
	}))
	b.Handle("RemoveContainer", proxytest.Typed(func(_ context.Context, req *runtimeapi.RemoveContainerRequest) (*runtimeapi.RemoveContainerResponse, error) {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.c, v.calls = nil, append(v.calls, "remove "+req.ContainerId)
		return &runtimeapi.RemoveContainerResponse{}, nil
	}))
	b.Handle("ContainerStatus", proxytest.Typed(func(_ context.Context, req *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
		v.mu.Lock()
		defer v.mu.Unlock()
		if v.c == nil || req.ContainerId != virtletID {
			return nil, errors.New("domain not found")
		}
		return &runtimeapi.ContainerStatusResponse{Status: proto.Clone(v.c).(*runtimeapi.ContainerStatus)}, nil
	}))
	b.Handle("ListContainers", proxytest.Typed(func(_ context.Context, req *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
		v.mu.Lock()
		defer v.mu.Unlock()
		if id := req.GetFilter().GetId(); v.c == nil || id != "" && id != v.c.Id {
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
