package proxy_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-logproxy/cri-logproxy/proxy"
	"github.com/cri-logproxy/cri-logproxy/proxy/personality"
	"github.com/cri-logproxy/cri-logproxy/proxy/proxytest"
)

const vmID, webID = "virtlet.cloud__" + virtletID, "4fa6e0f0c678"

// mixed is CRIProxy with a VM and a container, each in its third attempt.
type mixed struct {
	*rig
	containers []*runtimeapi.Container
	stats      map[string]*runtimeapi.ContainerStats // that the call for all has
}

func newMixed(t *testing.T) *mixed {
	t.Helper()
	b, err := proxytest.NewBackend(proxytest.BackendOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	listNothing(b)
	reconciled := make(chan struct{}, 100)
	b.Handle("ListContainers", proxytest.Typed(func(context.Context, *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
		reconciled <- struct{}{}
		return &runtimeapi.ListContainersResponse{}, nil
	}))
	m := &mixed{stats: make(map[string]*runtimeapi.ContainerStats)}
	m.rig = newRig(t, b, func(c *proxy.Config) {
		c.Intercept = proxy.InterceptAnnotation
		if c.Personality, err = personality.ParseChoice("virtlet"); err != nil {
			t.Fatal(err)
		}
	})
	<-reconciled // the proxy has found nothing, and hears of both when kubelet does
	item := func(id, sandbox, pod string) *runtimeapi.Container {
		return &runtimeapi.Container{
			Id: id, PodSandboxId: sandbox, Metadata: &runtimeapi.ContainerMetadata{Name: "vm", Attempt: 2}, State: runtimeapi.ContainerState_CONTAINER_RUNNING,
			CreatedAt: 7, Labels: podLabels(pod), Annotations: map[string]string{"io.kubernetes.container.restartCount": "2"},
		}
	}
	m.containers = []*runtimeapi.Container{item(vmID, "virtlet.cloud__uid-pod", "pod"), item(webID, "web", "web")}
	b.Handle("ListContainers", proxytest.Typed(func(_ context.Context, req *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
		resp := &runtimeapi.ListContainersResponse{}
		for _, c := range m.containers {
			if id := req.GetFilter().GetId(); id == "" || id == c.Id {
				resp.Containers = append(resp.Containers, c)
			}
		}
		return resp, nil
	}))
	b.Handle("ListPodSandbox", proxytest.Typed(func(context.Context, *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
		return &runtimeapi.ListPodSandboxResponse{Items: []*runtimeapi.PodSandbox{
			{Id: "virtlet.cloud__uid-pod", Annotations: map[string]string{proxy.TargetRuntimeAnnotation: "virtlet.cloud"}}, {Id: "web"},
		}}, nil
	}))
	b.Handle("ContainerStatus", proxytest.Typed(func(_ context.Context, req *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
		for _, c := range m.containers {
			if c.Id == req.ContainerId {
				return &runtimeapi.ContainerStatusResponse{Status: &runtimeapi.ContainerStatus{
					Id: c.Id, Metadata: c.Metadata, State: c.State, CreatedAt: c.CreatedAt, Labels: c.Labels, Annotations: c.Annotations, LogPath: "/pods/web/2.log",
				}}, nil
			}
		}
		return nil, errors.New("no such container: " + req.ContainerId)
	}))
	b.Handle("ListContainerStats", proxytest.Typed(func(context.Context, *runtimeapi.ListContainerStatsRequest) (*runtimeapi.ListContainerStatsResponse, error) {
		resp := &runtimeapi.ListContainerStatsResponse{}
		for _, s := range m.stats {
			resp.Stats = append(resp.Stats, s)
		}
		return resp, nil
	}))
	b.Handle("ContainerStats", proxytest.Typed(func(_ context.Context, req *runtimeapi.ContainerStatsRequest) (*runtimeapi.ContainerStatsResponse, error) {
		return &runtimeapi.ContainerStatsResponse{Stats: statsNamed(req.ContainerId, "asked alone")}, nil
	}))
	return m
}

func statsNamed(id, name string) *runtimeapi.ContainerStats {
	return &runtimeapi.ContainerStats{Attributes: &runtimeapi.ContainerAttributes{Id: id, Metadata: &runtimeapi.ContainerMetadata{Name: name}}}
}

// TestMixedAttempts has IDs of an attempt's own for the VM and not for the
// container, the first time that kubelet sees them.
func TestMixedAttempts(t *testing.T) {
	for _, first := range []string{"ListContainers", "ContainerStatus"} {
		t.Run(first, func(t *testing.T) {
			m := newMixed(t)
			if first == "ContainerStatus" {
				resp, err := m.client.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: webID})
				if err != nil || resp.Status.Id != webID || resp.Status.LogPath != "/pods/web/2.log" || resp.Status.CreatedAt != 7 {
					t.Errorf("%v, %v", resp, err)
				}
			}
			resp, err := m.client.ListContainers(t.Context(), &runtimeapi.ListContainersRequest{})
			if err != nil || len(resp.Containers) != 2 {
				t.Fatal(resp, err)
			}
			if got := resp.Containers[0].Id; got != vmID+"-2" {
				t.Errorf("the VM is %s", got)
			}
			if !proto.Equal(resp.Containers[1], m.containers[1]) {
				t.Errorf("the container is %v", resp.Containers[1])
			}
			if _, err := m.client.StopContainer(t.Context(), &runtimeapi.StopContainerRequest{ContainerId: webID}); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestMixedStats has the call for all answer for the containers as they are, and
// the VMs that it lacks asked for alone.
func TestMixedStats(t *testing.T) {
	m := newMixed(t)
	m.stats[webID] = statsNamed(webID, "web")
	want := map[string]string{webID: "web", vmID + "-2": "vm"}
	for _, all := range []string{"without the VM", "with the VM"} {
		resp, err := m.client.ListContainerStats(t.Context(), &runtimeapi.ListContainerStatsRequest{})
		if err != nil || len(resp.Stats) != 2 {
			t.Fatal(resp, err)
		}
		for _, s := range resp.Stats {
			if a := s.Attributes; a.Metadata.Name != want[a.Id] || a.Id == webID && len(a.Labels) > 0 || a.Id != webID && a.Labels["io.kubernetes.pod.name"] != "pod" {
				t.Errorf("%s: %v", all, s)
			}
		}
		one, err := m.client.ContainerStats(t.Context(), &runtimeapi.ContainerStatsRequest{ContainerId: webID})
		if err != nil || !proto.Equal(one.Stats, statsNamed(webID, "asked alone")) {
			t.Errorf("of the container: %v, %v", one, err)
		}
		m.stats[vmID] = statsNamed(vmID, vmID)
	}
}

// TestMixedPodNotListed has CRIProxy leave the VM's pod out for a moment, because
// Virtlet fails: the VM does not become a container for that, and kubelet is told
// no log path that is relative.
func TestMixedPodNotListed(t *testing.T) {
	m := newMixed(t)
	list := func(pods ...*runtimeapi.PodSandbox) {
		m.backend.Handle("ListPodSandbox", proxytest.Typed(func(context.Context, *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
			return &runtimeapi.ListPodSandboxResponse{Items: append(pods, &runtimeapi.PodSandbox{Id: "web"})}, nil
		}))
	}
	m.backend.Handle("ContainerStatus", proxytest.Typed(func(_ context.Context, req *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
		return &runtimeapi.ContainerStatusResponse{Status: &runtimeapi.ContainerStatus{Id: req.ContainerId, Labels: podLabels("pod"), State: runtimeapi.ContainerState_CONTAINER_RUNNING}}, nil
	}))
	list()
	if _, err := m.client.ListContainers(t.Context(), &runtimeapi.ListContainersRequest{}); err != nil {
		t.Fatal(err)
	}
	if got, want := m.status(vmID).LogPath, m.podLog("pod", "0.log"); got != want {
		t.Errorf("log path while its pod is not listed: %q, want %q", got, want)
	}
	list(&runtimeapi.PodSandbox{Id: "virtlet.cloud__uid-pod", Annotations: map[string]string{proxy.TargetRuntimeAnnotation: "virtlet.cloud"}})
	if resp, err := m.client.ListContainers(t.Context(), &runtimeapi.ListContainersRequest{}); err != nil || resp.Containers[0].Id != vmID+"-2" {
		t.Errorf("the VM is listed as %v, %v", resp, err)
	}
	if got, want := m.status(vmID+"-2").LogPath, m.podLog("pod", "2.log"); got != want {
		t.Errorf("log path: %q, want %q", got, want)
	}
}

// TestMixedPodComesLate has the proxy find a VM before its pod is listed.
func TestMixedPodComesLate(t *testing.T) {
	m := newMixed(t)
	m.stop()
	m.again = 20 * time.Millisecond
	var looks atomic.Int32
	m.backend.Handle("ListPodSandbox", proxytest.Typed(func(context.Context, *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
		resp := &runtimeapi.ListPodSandboxResponse{Items: []*runtimeapi.PodSandbox{{Id: "web"}}}
		if looks.Add(1) > 1 {
			resp.Items = append(resp.Items, &runtimeapi.PodSandbox{Id: "virtlet.cloud__uid-pod", Annotations: map[string]string{proxy.TargetRuntimeAnnotation: "virtlet.cloud"}})
		}
		return resp, nil
	}))
	m.start()
	eventually(t, "the VM is on record", func() bool { _, ok := m.logs.Container(vmID); return ok })
	if _, ok := m.logs.Container(webID); ok {
		t.Error("the container is on record")
	}
}
