package proxy_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// hangingLogs loses the state, and has the disk of the container's logs hang from
// the start on, until release.
func (r *rig) hangingLogs() (release func()) {
	r.t.Helper()
	must := func(err error) {
		r.t.Helper()
		if err != nil {
			r.t.Fatal(err)
		}
	}
	dir := filepath.Dir(r.podLog("pod", "0.log"))
	r.stop()
	must(os.RemoveAll(filepath.Join(r.dir, "state")))
	must(os.Rename(dir, dir+".away"))
	must(syscall.Mkfifo(dir, 0o600)) // who opens it waits for a writer
	r.start()
	for range 2 {
		ctx, cancel := context.WithTimeout(r.t.Context(), 100*time.Millisecond)
		_, _ = r.client.ListContainers(ctx, &runtimeapi.ListContainersRequest{}) // its caller gives up
		cancel()
	}
	return func() {
		f, err := os.OpenFile(dir, os.O_RDWR, 0)
		must(err)
		defer f.Close()
		must(os.Remove(dir))
		must(os.Rename(dir+".away", dir))
	}
}

// TestLogDirectoryHangs has a container that is not on record, and the disk of
// its logs hang: neither calls nor SIGTERM wait for it without bound, and its
// attempt is not taken for another.
func TestLogDirectoryHangs(t *testing.T) {
	r, v := newVirtletRig(t, "auto")
	r.attempt(0)
	v.powerOff()
	r.attempt(1)
	release := r.hangingLogs()
	if c, ok := r.logs.Container(virtletID); ok {
		t.Errorf("on record as attempt %d", c.Attempt)
	}
	release()
	eventually(t, "the present attempt is listed", func() bool { return slices.Equal(r.listed(nil), []string{"-1 1 RUNNING"}) })

	release = r.hangingLogs()
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		r.stop()
	}()
	select {
	case <-stopped:
	case <-time.After(10 * time.Second):
		t.Error("it does not stop")
	}
	release()
	<-stopped
}
