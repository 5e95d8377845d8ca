package proxy_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// boots is a Virtlet 1.x, without a libvirt that could be asked, whose VM starts
// and says text: CreateContainer finds its container and leaves the first raw log.
func (r *rig) boots(attempt uint32, text string) {
	r.t.Helper()
	if err := os.Truncate(filepath.Join(r.cfg.VMLogDir, "uid-pod", "_0.log"), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
		r.t.Fatal(err)
	}
	r.attempt(attempt)
	r.writeRaw("uid-pod/_0.log", text+"\n")
}

// eventuallyLog waits until a log is what it should be.
func (r *rig) eventuallyLog(name string, want ...string) {
	r.t.Helper()
	eventually(r.t, name+" is complete", func() bool { return slices.Equal(contents(r.t, r.podLog("pod", name)), want) })
}

// TestFirstStartFails has the first StartContainer, and then more, fail before
// there is a raw log.
func TestFirstStartFails(t *testing.T) {
	r, v := newVirtletRig(t, "auto")
	v.start = errors.New("no DHCP lease yet")
	for n := range uint32(3) {
		id := r.create("pod", n, nil)
		if _, err := r.client.StartContainer(t.Context(), &runtimeapi.StartContainerRequest{ContainerId: id}); err == nil {
			t.Fatal("it starts")
		}
		if n == 1 {
			r.restart()
		}
	}
	v.start = nil
	r.boots(3, "boot")
	r.eventuallyLog("3.log", "boot")
	if c, _ := r.logs.Container(virtletID); len(c.RawLogs) != 4 {
		t.Errorf("raw logs on record: %q", c.RawLogs)
	}
}

// TestFirstStartFailsAgain does so with a container that was removed after a stop,
// and made anew: it has the raw log of that attempt.
func TestFirstStartFailsAgain(t *testing.T) {
	r, v := newVirtletRig(t, "auto")
	r.boots(0, "boot 0")
	r.eventuallyLog("0.log", "boot 0")
	if err := r.stopContainer(virtletID); err != nil {
		t.Fatal(err)
	}
	v.start = errors.New("no DHCP lease yet")
	for n := range uint32(3) {
		id := r.create("pod", n+1, nil)
		if _, err := r.client.StartContainer(t.Context(), &runtimeapi.StartContainerRequest{ContainerId: id}); err == nil {
			t.Fatal("it starts")
		}
		r.restart()
	}
	v.start = nil
	r.attempt(4)
	r.writeRaw("uid-pod/_1.log", "boot 4\n")
	r.eventuallyLog("4.log", "boot 4")
}

// TestCreateAnswerLost is a kubelet that was restarted during its first
// CreateContainer: it makes another attempt.
func TestCreateAnswerLost(t *testing.T) {
	r, v := newVirtletRig(t, "auto")
	ctx, cancel := context.WithCancel(t.Context())
	v.create = func() error { cancel(); return nil }
	if _, err := r.client.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{
		PodSandboxId:  "uid-pod",
		Config:        &runtimeapi.ContainerConfig{Metadata: &runtimeapi.ContainerMetadata{Name: "vm"}, LogPath: "vm/0.log"},
		SandboxConfig: r.sandboxConfig("pod"),
	}); err == nil {
		t.Fatal("kubelet has an answer")
	}
	eventually(t, "the runtime has made it", func() bool { return v.status(virtletID) != nil })
	v.create = nil
	r.wantListed(" 0 CREATED")
	r.status(virtletID)
	r.boots(1, "boot")
	r.eventuallyLog("1.log", "boot")
}

// TestStateLostInFirstRawLog has the state lost in a later attempt, whose raw log
// is still the first one's.
func TestStateLostInFirstRawLog(t *testing.T) {
	r, v := newVirtletRig(t, "auto")
	r.boots(0, "boot 0")
	r.eventuallyLog("0.log", "boot 0")
	v.powerOff()
	r.boots(1, "boot 1")
	r.eventuallyLog("1.log", "boot 1")
	r.loseState()
	r.writeRaw("uid-pod/_0.log", "more\n")
	r.eventuallyLog("1.log", "boot 1", "more")
	v.powerOff()
	r.boots(2, "boot 2")
	r.eventuallyLog("2.log", "boot 2")
	v.powerOff()
	r.loseState()
	r.wantListed("-2 2 EXITED")
	r.status(virtletID + "-2") // as kubelet asks
	r.boots(3, "boot 3")
	r.eventuallyLog("3.log", "boot 3")
	for n, want := range []string{"boot 0", "boot 2"} {
		r.wantLog("pod", itoa(uint32(2*n))+".log", want)
	}
}

// TestStateLostAfterFailedStart has the state lost when attempts have failed to
// start: the raw log is that of the last one that ran.
func TestStateLostAfterFailedStart(t *testing.T) {
	r, v := newVirtletRig(t, "auto")
	r.boots(0, "boot")
	r.eventuallyLog("0.log", "boot")
	v.powerOff()
	v.start = errors.New("no memory")
	for n := range uint32(2) {
		id := r.create("pod", n+1, nil)
		if _, err := r.client.StartContainer(t.Context(), &runtimeapi.StartContainerRequest{ContainerId: id}); err == nil {
			t.Fatal("it starts")
		}
	}
	r.loseState()
	r.wantListed("-2 2 EXITED")
	r.status(virtletID + "-2") // when its log is complete
	r.wantLog("pod", "1.log")
	r.wantLog("pod", "2.log")
	v.start = nil
	r.boots(3, "boot")
	r.eventuallyLog("3.log", "boot")
	r.wantLog("pod", "2.log")
}
