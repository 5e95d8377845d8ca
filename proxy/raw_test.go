package proxy_test

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-logproxy/cri-logproxy/libvirt"
	"github.com/cri-logproxy/cri-logproxy/proxy"
	"github.com/cri-logproxy/cri-logproxy/proxy/logmap"
	"github.com/cri-logproxy/cri-logproxy/proxy/proxytest"
)

func bothRig(t *testing.T, fake proxy.Consoles) *rig {
	r := newRigWithLibvirt(t, fake, func(c *proxy.Config) { c.LogMode = logmap.ModeBoth })
	oneContainer(r.backend, "c1")
	return r
}

// exited has the log completed, as for kubelet that hears EXITED.
func (r *rig) exited(id string) {
	r.t.Helper()
	statusOf(r.backend, runtimeapi.ContainerState_CONTAINER_EXITED, nil)
	r.status(id)
}

func (r *rig) wantLog(pod, name string, want ...string) {
	r.t.Helper()
	if got := contents(r.t, r.podLog(pod, name)); !slices.Equal(got, want) {
		r.t.Errorf("%s: %q, want %q", name, got, want)
	}
}

// TestOldRawLogGoesOn is a runtime with one container ID for good, and a libvirt
// that does not answer when the next attempt starts: its domain goes on in the
// raw log of the attempt before.
func TestOldRawLogGoesOn(t *testing.T) {
	fake := &fakeLibvirt{serial: libvirt.Serial{Type: "pty"}}
	r := bothRig(t, fake)
	id := r.create("pod", 0, nil)
	r.startContainer(id)
	r.writeRaw("uid-pod/_0.log", "boot 0 line 1\r\nboot 0 line 2\r\n")
	r.exited(id)
	r.wantLog("pod", "0.log", "boot 0 line 1", "boot 0 line 2")
	fake.err = errors.New("libvirt hangs")
	r.create("pod", 1, nil)
	r.startContainer(id)
	r.writeRaw("uid-pod/_0.log", "boot 1\r\n")
	r.exited(id)
	r.wantLog("pod", "1.log", "[cri-logproxy] mode both could not be set up: libvirt hangs; the console is as the runtime has made it", "boot 1")
}

// TestRawLogOfAnAttemptGoes checks that the raw log that the proxy has chosen is
// deleted when its attempt is over, or its container removed: libvirt would
// append to it.
func TestRawLogOfAnAttemptGoes(t *testing.T) {
	fake := &fakeLibvirt{serial: libvirt.Serial{Type: "pty"}}
	r := bothRig(t, fake)
	id := r.create("pod", 0, nil)
	r.startContainer(id)
	r.writeRaw("uid-pod/_0.log.0", "a rotated one\r\n")
	r.writeRaw("uid-pod/_0.log", "old\r\n")
	r.exited(id)
	r.create("pod", 1, nil)
	raws := func() []string {
		list, err := filepath.Glob(filepath.Join(r.cfg.VMLogDir, "uid-pod", "*"))
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	if left := raws(); len(left) > 0 {
		t.Errorf("after the next CreateContainer: %q", left)
	}
	r.startContainer(id)
	r.writeRaw("uid-pod/_1.log", "second\r\n")
	r.exited(id)
	r.wantLog("pod", "1.log", "second")
	if _, err := r.client.RemoveContainer(t.Context(), &runtimeapi.RemoveContainerRequest{ContainerId: id}); err != nil {
		t.Fatal(err)
	}
	if left := raws(); len(left) > 0 {
		t.Errorf("after RemoveContainer: %q", left)
	}

	// A VM that runs keeps it, whatever kubelet asks for.
	id = r.create("pod", 2, nil)
	r.startContainer(id)
	r.writeRaw("uid-pod/_2.log", "third\r\n")
	fake.serial.Active = true
	r.create("pod", 3, nil)
	if left := raws(); len(left) != 1 {
		t.Errorf("of a running VM: %q", left)
	}
}

// TestSavedState is a VM that goes on from a saved state: with the console of
// that time.
func TestSavedState(t *testing.T) {
	fake := &fakeLibvirt{serial: libvirt.Serial{Type: "pty"}}
	r := bothRig(t, fake)
	id := r.create("pod", 1, nil)
	r.backend.Handle("StartContainer", proxytest.Typed(func(context.Context, *runtimeapi.StartContainerRequest) (*runtimeapi.StartContainerResponse, error) {
		fake.serial = libvirt.Serial{Active: true, Type: "pty", Log: "/var/log/vms/uid-pod/_0.log", Appends: true}
		return &runtimeapi.StartContainerResponse{}, nil
	}))
	r.startContainer(id)
	r.writeRaw("uid-pod/_0.log", "goes on\r\n")
	r.exited(id)
	r.wantLog("pod", "1.log", "goes on")
}

// TestRunsAfterAll is a start that fails over the log, of a VM that runs.
func TestRunsAfterAll(t *testing.T) {
	fake := &fakeLibvirt{serial: libvirt.Serial{Type: "pty"}}
	r := bothRig(t, fake)
	id := r.create("pod", 0, nil)
	r.backend.Handle("StartContainer", proxytest.Typed(func(context.Context, *runtimeapi.StartContainerRequest) (*runtimeapi.StartContainerResponse, error) {
		fake.serial.Active = true
		return nil, status.Error(codes.Unknown, "started, but something about /var/log/vms/uid-pod/_0.log")
	}))
	if _, err := r.client.StartContainer(t.Context(), &runtimeapi.StartContainerRequest{ContainerId: id}); status.Code(err) != codes.Unknown {
		t.Errorf("start: %v", err)
	}
	r.writeRaw("uid-pod/_0.log", "hello\r\n")
	r.exited(id)
	r.wantLog("pod", "0.log", "hello")
}

// TestNoticeOnOneLine has libvirt fail with two lines.
func TestNoticeOnOneLine(t *testing.T) {
	r := bothRig(t, &fakeLibvirt{err: errors.New("operation failed: line one\nline two")})
	r.startContainer(r.create("pod", 0, withMode("file")))
	r.wantLog("pod", "0.log", "[cri-logproxy] mode file could not be set up: operation failed: line one line two; the console is as the runtime has made it")
}

// hangingLibvirt answers never.
type hangingLibvirt struct{}

func (hangingLibvirt) Serial(ctx context.Context, _ string) (libvirt.Serial, error) {
	<-ctx.Done()
	return libvirt.Serial{}, ctx.Err()
}

func (h hangingLibvirt) SetConsole(ctx context.Context, id string, _ libvirt.Console, _ string) (libvirt.Serial, error) {
	return h.Serial(ctx, id)
}

// TestShortDeadline is a client with little time, and a libvirt that hangs: the
// VM starts.
func TestShortDeadline(t *testing.T) {
	r := bothRig(t, hangingLibvirt{})
	id := r.create("pod", 0, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if _, err := r.client.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: id}); err != nil {
		t.Error(err)
	}
}
