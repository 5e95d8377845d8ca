package proxy_test

import (
	"context"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-logproxy/cri-logproxy/proxy/proxytest"
)

// TestRuntimeUpgraded puts one release after the other in the runtime's place
// under a running proxy. A client of v1 sees the same pod all the time.
func TestRuntimeUpgraded(t *testing.T) {
	backend, err := proxytest.NewBackend(proxytest.BackendOptions{APIs: []string{proxytest.V1alpha1}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(backend.Close)
	listNothing(backend)
	host := &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE, Pid: runtimeapi.NamespaceMode_CONTAINER}
	var asked *runtimeapi.NamespaceOption
	backend.Handle("RunPodSandbox", proxytest.Typed(func(_ context.Context, req *runtimeapi.RunPodSandboxRequest) (*runtimeapi.RunPodSandboxResponse, error) {
		asked = req.GetConfig().GetLinux().GetSecurityContext().GetNamespaceOptions()
		return &runtimeapi.RunPodSandboxResponse{PodSandboxId: "uid-pod"}, nil
	}))
	backend.Handle("PodSandboxStatus", proxytest.Typed(func(context.Context, *runtimeapi.PodSandboxStatusRequest) (*runtimeapi.PodSandboxStatusResponse, error) {
		return &runtimeapi.PodSandboxStatusResponse{Status: &runtimeapi.PodSandboxStatus{
			Linux: &runtimeapi.LinuxPodSandboxStatus{Namespaces: &runtimeapi.Namespace{Options: asked}},
		}}, nil
	}))
	r := newRig(t, backend, nil)
	config := r.sandboxConfig("pod")
	config.Linux = &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: host}}
	if _, err := r.client.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: config}); err != nil {
		t.Fatal(err)
	}
	for _, next := range []string{"", proxytest.V1alpha2, proxytest.V1, proxytest.V1alpha1} {
		if next != "" {
			backend.Stop()
			backend.Serve(next)
			if err := backend.Restart(); err != nil {
				t.Fatal(err)
			}
		}
		var resp *runtimeapi.PodSandboxStatusResponse
		eventually(t, "the runtime answers", func() bool {
			resp, err = r.client.PodSandboxStatus(t.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: "uid-pod"})
			return err == nil
		})
		got := resp.GetStatus().GetLinux().GetNamespaces().GetOptions()
		if got.GetNetwork() != host.Network || got.GetPid() != host.Pid || got.GetIpc() != host.Ipc {
			t.Errorf("at %q: namespaces %v", next, got)
		}
	}
}

// TestHostNetworkOverUpgrade has Virtlet 1.0, which says which namespaces a pod has
// asked for, replaced by one that does not.
func TestHostNetworkOverUpgrade(t *testing.T) {
	backend, err := proxytest.NewBackend(proxytest.BackendOptions{APIs: []string{proxytest.V1alpha1}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(backend.Close)
	(&fakeVirtlet{}).serve(backend)
	backend.Handle("RunPodSandbox", proxytest.Typed(func(context.Context, *runtimeapi.RunPodSandboxRequest) (*runtimeapi.RunPodSandboxResponse, error) {
		return &runtimeapi.RunPodSandboxResponse{PodSandboxId: "uid-pod"}, nil
	}))
	backend.Handle("PodSandboxStatus", proxytest.Typed(func(context.Context, *runtimeapi.PodSandboxStatusRequest) (*runtimeapi.PodSandboxStatusResponse, error) {
		return &runtimeapi.PodSandboxStatusResponse{Status: &runtimeapi.PodSandboxStatus{Id: "uid-pod"}}, nil
	}))
	r := newRig(t, backend, nil)
	config := r.sandboxConfig("pod")
	config.Linux = &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
		NamespaceOptions: &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE},
	}}
	if _, err := r.client.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: config}); err != nil {
		t.Fatal(err)
	}
	backend.Stop()
	backend.Serve(proxytest.V1alpha2)
	if err := backend.Restart(); err != nil {
		t.Fatal(err)
	}
	var resp *runtimeapi.PodSandboxStatusResponse
	eventually(t, "the next release answers", func() bool {
		resp, err = r.client.PodSandboxStatus(t.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: "uid-pod"})
		return err == nil
	})
	if got := resp.GetStatus().GetLinux().GetNamespaces().GetOptions().GetNetwork(); got != runtimeapi.NamespaceMode_NODE {
		t.Errorf("kubelet is told network %v of a hostNetwork pod: it would kill it", got)
	}
}
