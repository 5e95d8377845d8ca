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
