package proxy_test

import (
	"bytes"
	"context"
	"testing"

	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-logproxy/cri-logproxy/proxy"
	"github.com/cri-logproxy/cri-logproxy/proxy/proxytest"
)

// TestIntercept is a node with VMs and containers behind one endpoint, and
// CRIProxy's IDs: the containers are as without the proxy.
func TestIntercept(t *testing.T) {
	r := newRig(t, nil, func(c *proxy.Config) { c.Intercept = proxy.InterceptAnnotation })
	asked := map[string]int{}
	record := func(method string) { asked[method]++ }
	r.backend.Handle("CreateContainer", proxytest.Typed(func(_ context.Context, req *runtimeapi.CreateContainerRequest) (*runtimeapi.CreateContainerResponse, error) {
		return &runtimeapi.CreateContainerResponse{ContainerId: "of-" + req.PodSandboxId}, nil
	}))
	r.backend.Handle("ListContainers", proxytest.Typed(func(context.Context, *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
		record("ListContainers")
		return &runtimeapi.ListContainersResponse{Containers: []*runtimeapi.Container{
			{Id: "old", PodSandboxId: "uid-old", State: runtimeapi.ContainerState_CONTAINER_RUNNING, Labels: map[string]string{
				"io.kubernetes.pod.name": "old", "io.kubernetes.pod.namespace": "ns", "io.kubernetes.pod.uid": "uid-old", "io.kubernetes.container.name": "web",
			}},
		}}, nil
	}))
	r.backend.Handle("ListPodSandbox", proxytest.Typed(func(context.Context, *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
		record("ListPodSandbox")
		return &runtimeapi.ListPodSandboxResponse{Items: []*runtimeapi.PodSandbox{{Id: "uid-old", Metadata: &runtimeapi.PodSandboxMetadata{Name: "old"}}}}, nil
	}))
	r.backend.Handle("ContainerStatus", proxytest.Typed(func(_ context.Context, req *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
		return &runtimeapi.ContainerStatusResponse{Status: &runtimeapi.ContainerStatus{
			Id: req.ContainerId, State: runtimeapi.ContainerState_CONTAINER_RUNNING, LogPath: "",
			Labels: map[string]string{"io.kubernetes.pod.name": "p", "io.kubernetes.pod.namespace": "ns", "io.kubernetes.pod.uid": "u", "io.kubernetes.container.name": "web"},
		}}, nil
	}))

	var sent []byte
	id := r.create("web", 0, func(req *runtimeapi.CreateContainerRequest) {
		var err error
		if sent, err = proto.Marshal(req); err != nil {
			t.Fatal(err)
		}
	})
	if got := r.request("CreateContainer"); !bytes.Equal(got, sent) {
		t.Errorf("the runtime got %x, kubelet sent %x", got, sent)
	}
	r.startContainer(id)
	if got := r.status(id).LogPath; got != "" {
		t.Errorf("log path of a container: %q", got)
	}
	if _, err := r.client.ReopenContainerLog(t.Context(), &runtimeapi.ReopenContainerLogRequest{ContainerId: id}); err != nil {
		t.Error(err)
	}
	if r.request("ReopenContainerLog") == nil {
		t.Error("ReopenContainerLog of a container was not forwarded")
	}
	// One of before: found out once.
	r.status("old")
	before := asked["ListContainers"]
	for range 3 {
		r.status("old")
		r.startContainer("old")
	}
	if asked["ListContainers"] != before {
		t.Error("the runtime is asked again and again whose container it is")
	}
	if n := len(r.logs.Containers()); n != 0 {
		t.Errorf("%d containers on record", n)
	}

	vm := r.create("virtlet.cloud__vm", 0, func(req *runtimeapi.CreateContainerRequest) {
		req.PodSandboxId = "virtlet.cloud__uid-vm"
		req.SandboxConfig.Annotations = map[string]string{proxy.TargetRuntimeAnnotation: "virtlet.cloud"}
	})
	var got runtimeapi.CreateContainerRequest
	if err := proto.Unmarshal(r.request("CreateContainer"), &got); err != nil || got.SandboxConfig.LogDirectory != "/var/log/vms/uid-vm" || got.Config.LogPath != "_0.log" {
		t.Errorf("the runtime is asked for %s / %s: %v", got.GetSandboxConfig().GetLogDirectory(), got.GetConfig().GetLogPath(), err)
	}
	if c, ok := r.logs.Container(vm); !ok || c.RawLogs[0] != "uid-vm/_0.log" {
		t.Errorf("on record: %+v", c)
	}
}
