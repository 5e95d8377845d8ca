package proxy_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
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

// TestInterceptCorrected has a pod of containers taken for VMs until --intercept
// is corrected, or until the runtime says that it is one of containers.
func TestInterceptCorrected(t *testing.T) {
	kubelets := map[string]string{"kubernetes.io/config.source": "api"}
	for name, correct := range map[string]func(*rig){
		"by flag": func(r *rig) { r.cfg.Intercept = proxy.InterceptAnnotation },
		"by name": func(r *rig) { callRuntime(r.backend, "cri-o") },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, nil, nil)
			r.backend.Handle("RunPodSandbox", proxytest.Typed(func(_ context.Context, req *runtimeapi.RunPodSandboxRequest) (*runtimeapi.RunPodSandboxResponse, error) {
				return &runtimeapi.RunPodSandboxResponse{PodSandboxId: req.Config.Metadata.Uid}, nil
			}))
			r.backend.Handle("CreateContainer", proxytest.Typed(func(_ context.Context, req *runtimeapi.CreateContainerRequest) (*runtimeapi.CreateContainerResponse, error) {
				return &runtimeapi.CreateContainerResponse{ContainerId: "of-" + req.PodSandboxId + itoa(req.Config.Metadata.Attempt)}, nil
			}))
			vm := map[string]string{proxy.TargetRuntimeAnnotation: "virtlet"}
			for pod, annotations := range map[string]map[string]string{"pod": kubelets, "untold": nil, "vm": vm} {
				config := r.sandboxConfig(pod)
				config.Annotations = annotations
				if _, err := r.client.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: config}); err != nil {
					t.Fatal(err)
				}
				r.startContainer(r.create(pod, 0, nil))
			}
			r.writeRaw("uid-pod/_0.log", "hello\n")
			log := r.podLog("pod", "0.log")
			eventually(t, "the log is there", func() bool { return slices.Equal(contents(t, log), []string{"hello"}) })

			r.backend.Handle("ListContainers", proxytest.Typed(func(context.Context, *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
				resp := &runtimeapi.ListContainersResponse{}
				for _, pod := range []string{"uid-pod", "uid-untold", "uid-vm"} {
					resp.Containers = append(resp.Containers, &runtimeapi.Container{Id: "of-" + pod + "0", PodSandboxId: pod})
				}
				return resp, nil
			}))
			r.backend.Handle("ListPodSandbox", proxytest.Typed(func(context.Context, *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
				return &runtimeapi.ListPodSandboxResponse{Items: []*runtimeapi.PodSandbox{
					{Id: "uid-pod", Annotations: kubelets}, {Id: "uid-untold"}, {Id: "uid-vm", Annotations: vm},
				}}, nil
			}))
			correct(r)
			r.restart()
			var sent []byte
			r.create("pod", 1, func(req *runtimeapi.CreateContainerRequest) {
				sent, _ = proto.Marshal(req)
			})
			if got := r.request("CreateContainer"); !bytes.Equal(got, sent) {
				t.Errorf("the runtime got %x, kubelet sent %x", got, sent)
			}
			eventually(t, "the pod is not on record", func() bool {
				return slices.Equal(r.logs.Sandboxes(), []string{"uid-untold", "uid-vm"}) && len(r.logs.Containers()) == 2
			})
			if _, err := r.client.ReopenContainerLog(t.Context(), &runtimeapi.ReopenContainerLogRequest{ContainerId: "of-uid-pod0"}); err != nil {
				t.Error(err)
			}
			r.request("ReopenContainerLog") // it is told
			if got := contents(t, log); !slices.Equal(got, []string{"hello"}) {
				t.Errorf("log: %q", got)
			}
			if _, err := os.Stat(filepath.Join(r.cfg.VMLogDir, "uid-pod", "_0.log")); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestContainerRuntime is what --intercept=all is not for: the containers are as
// without the proxy, and its log says so.
func TestContainerRuntime(t *testing.T) {
	logged := captureLog(t)
	b, err := proxytest.NewBackend(proxytest.BackendOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	listNothing(b)
	callRuntime(b, "containerd")
	r := newRig(t, b, nil)
	var sent []byte
	r.create("pod", 0, func(req *runtimeapi.CreateContainerRequest) { sent, _ = proto.Marshal(req) })
	if got := r.request("CreateContainer"); !bytes.Equal(got, sent) {
		t.Errorf("the runtime got %x, kubelet sent %x", got, sent)
	}
	r.create("vm", 0, func(req *runtimeapi.CreateContainerRequest) {
		req.SandboxConfig.Annotations = map[string]string{proxy.TargetRuntimeAnnotation: "virtlet"}
		sent, _ = proto.Marshal(req)
	})
	if got := r.request("CreateContainer"); bytes.Equal(got, sent) {
		t.Error("an annotated pod is not taken for a VM")
	}
	if s := logged(); strings.Count(s, "--intercept=annotation") != 1 {
		t.Errorf("this is logged: %s", s)
	}
}
