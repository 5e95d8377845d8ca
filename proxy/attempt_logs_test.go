package proxy_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-logproxy/cri-logproxy/proxy/proxytest"
)

// TestAttemptLogs gives each attempt its own output and nothing else, whichever
// raw log the runtime gives it, also behind an attempt that failed to start:
// libvirt truncates the raw log before it fails.
func TestAttemptLogs(t *testing.T) {
	for name, raw := range map[string]func(attempt uint32) string{
		"1.0":   func(uint32) string { return "uid-pod/_0.log" },
		"0.8.2": func(n uint32) string { return "uid-pod/vm_" + itoa(n) + ".log" },
		"0.6":   func(n uint32) string { return "uid-pod/_" + itoa(n) + ".log" },
	} {
		t.Run(name, func(t *testing.T) {
			r, v := newVirtletRig(t, "auto")
			v.replaces = name != "1.0"
			var attempt uint32
			r.backend.Handle("StartContainer", proxytest.Typed(func(context.Context, *runtimeapi.StartContainerRequest) (*runtimeapi.StartContainerResponse, error) {
				path := filepath.Join(r.cfg.VMLogDir, raw(attempt))
				err := os.MkdirAll(filepath.Dir(path), 0o755)
				if err == nil {
					err = os.WriteFile(path, nil, 0o600)
				}
				if attempt == 1 {
					err = errors.New("no memory")
				}
				if err == nil {
					v.set(runtimeapi.ContainerState_CONTAINER_RUNNING)
				}
				return &runtimeapi.StartContainerResponse{}, err
			}))
			for ; attempt < 4; attempt++ {
				id := r.create("pod", attempt, nil)
				_, err := r.client.StartContainer(t.Context(), &runtimeapi.StartContainerRequest{ContainerId: id})
				if (err != nil) != (attempt == 1) {
					t.Fatal(err)
				}
				if err == nil {
					r.writeRaw(raw(attempt), "boot "+itoa(attempt)+"\r\nno line end")
					v.powerOff() // and kubelet does not look before it makes the next one
				}
			}
			r.status(virtletID + "-3")
			for n := range attempt {
				if n == 1 {
					r.wantLog("pod", "1.log")
					continue
				}
				r.wantLog("pod", itoa(n)+".log", "boot "+itoa(n), "no line end")
			}
		})
	}
}
