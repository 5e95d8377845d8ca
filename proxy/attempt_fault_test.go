package proxy_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-logproxy/cri-logproxy/proxy/logmap"
	"github.com/cri-logproxy/cri-logproxy/proxy/personality"
	"github.com/cri-logproxy/cri-logproxy/proxy/proxytest"
)

// wantListed compares what ListContainers tells.
func (r *rig) wantListed(list ...string) {
	r.t.Helper()
	if got := r.listed(nil); !slices.Equal(got, list) {
		r.t.Errorf("listed: %q, want %q", got, list)
	}
}

// loseState restarts the proxy without what it had on record.
func (r *rig) loseState() {
	r.t.Helper()
	r.stop()
	if err := os.RemoveAll(filepath.Join(r.dir, "state")); err != nil {
		r.t.Fatal(err)
	}
	r.start()
}

// personality is what --personality says from the next start on.
func (r *rig) personality(choice string) {
	r.t.Helper()
	var err error
	if r.cfg.Personality, err = personality.ParseChoice(choice); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) stopContainer(id string) error {
	_, err := r.client.StopContainer(r.t.Context(), &runtimeapi.StopContainerRequest{ContainerId: id})
	return err
}

func (r *rig) removeContainer(id string) error {
	_, err := r.client.RemoveContainer(r.t.Context(), &runtimeapi.RemoveContainerRequest{ContainerId: id})
	return err
}

// createFails sends a CreateContainer that the runtime refuses.
func (r *rig) createFails(attempt uint32) {
	r.t.Helper()
	_, err := r.client.CreateContainer(r.t.Context(), &runtimeapi.CreateContainerRequest{
		PodSandboxId: "uid-pod", Config: &runtimeapi.ContainerConfig{Metadata: &runtimeapi.ContainerMetadata{Name: "vm", Attempt: attempt}, LogPath: "vm/" + itoa(attempt) + ".log"},
		SandboxConfig: r.sandboxConfig("pod"),
	})
	if err == nil {
		r.t.Error("CreateContainer succeeds")
	}
}

// TestAttemptsForgotten has kubelet remove attempts that it remembers, when the
// proxy has lost its state and not found it again: none of that reaches the VM.
func TestAttemptsForgotten(t *testing.T) {
	r, v := newVirtletRig(t, "auto")
	for n := range uint32(3) {
		r.attempt(n)
		if n < 2 {
			v.powerOff()
		}
	}
	v.mu.Lock()
	v.busy = true // there is nothing to reconcile with
	v.mu.Unlock()
	for _, id := range []string{virtletID, virtletID + "-1"} {
		r.loseState()
		if _, err := r.client.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: id}); status.Code(err) != codes.NotFound {
			t.Errorf("status of %s: %v", id, err)
		}
		r.loseState()
		if err := r.removeContainer(id); err != nil {
			t.Errorf("remove %s: %v", id, err)
		}
		r.loseState()
		if err := r.stopContainer(id); status.Code(err) != codes.NotFound {
			t.Errorf("stop %s: %v", id, err)
		}
		if _, err := r.client.UpdateContainerResources(t.Context(), &runtimeapi.UpdateContainerResourcesRequest{ContainerId: id}); status.Code(err) != codes.NotFound {
			t.Errorf("update %s: %v", id, err)
		}
		if _, err := r.client.Exec(t.Context(), &runtimeapi.ExecRequest{ContainerId: id}); status.Code(err) != codes.NotFound {
			t.Errorf("exec in %s: %v", id, err)
		}
	}
	if len(v.calls) > 0 {
		t.Errorf("the runtime was told %q", v.calls)
	}
	r.loseState()
	if err := r.stopContainer(virtletID + "-2"); err != nil || !slices.Equal(v.calls, []string{"stop " + virtletID}) {
		t.Errorf("stop the present one: %v, and the runtime was told %q", err, v.calls)
	}
}

// TestAttemptReplaced is a runtime that removes the container, and then cannot
// make another: kubelet still sees what it was.
func TestAttemptReplaced(t *testing.T) {
	for _, test := range []struct {
		name string
		stop bool // then it is the proxy that removes it
	}{{"by the runtime", false}, {"by the proxy", true}} {
		t.Run(test.name, func(t *testing.T) {
			r, v := newVirtletRig(t, "auto")
			v.replaces = !test.stop
			r.attempt(0)
			if v.powerOff(); test.stop {
				if err := r.stopContainer(virtletID); err != nil {
					t.Fatal(err)
				}
			}
			before := r.status(virtletID)
			v.create = func() error {
				r.wantListed(" 0 EXITED")
				resp, err := r.client.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: virtletID})
				if resp.GetStatus().GetFinishedAt() != before.FinishedAt {
					t.Errorf("while the next is made: %v, %v", resp, err)
				}
				return errors.New("no disk is left")
			}
			for range 2 {
				r.createFails(1)
				r.wantListed(" 0 EXITED")
				if got := r.status(virtletID); got.FinishedAt != before.FinishedAt || got.LogPath != r.podLog("pod", "0.log") {
					t.Errorf("it was %v, and is %v", before, got)
				}
				r.restart()
			}
			v.create = nil
			r.attempt(1)
			r.wantListed("-1 1 RUNNING", " 0 EXITED")
			if got := r.status(virtletID); got.FinishedAt != before.FinishedAt {
				t.Errorf("it was %v, and is %v", before, got)
			}
		})
	}
}

// TestAttemptHalfRecorded is a proxy that was killed when the old attempt was on
// record as over, and the new one not yet.
func TestAttemptHalfRecorded(t *testing.T) {
	r, v := newVirtletRig(t, "auto")
	r.attempt(0)
	v.powerOff()
	if err := r.logs.PutAttempt(logmap.Attempt{ID: virtletID, ContainerID: virtletID, SandboxID: "uid-pod"}); err != nil {
		t.Fatal(err)
	}
	r.restart()
	if err := r.removeContainer(virtletID); err != nil || !slices.Equal(v.calls, []string{"remove " + virtletID}) {
		t.Errorf("remove: %v, and the runtime was told %q", err, v.calls)
	}
	r.wantListed()
}

// TestAttemptNeverStarted has an attempt that kubelet gave up before it started
// it: it did not complete.
func TestAttemptNeverStarted(t *testing.T) {
	r, v := newVirtletRig(t, "auto")
	r.attempt(0)
	v.powerOff()
	r.create("pod", 1, nil)
	r.attempt(2)
	r.wantListed("-2 2 RUNNING", " 0 EXITED", "-1 1 CREATED")
	if got := r.status(virtletID + "-1"); got.Reason != "" || got.FinishedAt != 0 {
		t.Errorf("an attempt that never ran: %v", got)
	}
}

// TestStatusOvertaken has a ContainerStatus take so long at the runtime that the
// next attempt is there first.
func TestStatusOvertaken(t *testing.T) {
	r, v := newVirtletRig(t, "auto")
	r.attempt(0)
	v.powerOff()
	asked, goOn := make(chan struct{}), make(chan struct{})
	first := make(chan struct{}, 1)
	first <- struct{}{}
	v.answered = func() {
		select {
		case <-first:
			close(asked)
			<-goOn
		default:
		}
	}
	got := make(chan *runtimeapi.ContainerStatus)
	go func() {
		resp, err := r.client.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: virtletID})
		if err != nil {
			t.Error(err)
		}
		got <- resp.GetStatus()
	}()
	<-asked
	r.attempt(1)
	close(goOn)
	if st := <-got; st.GetId() != virtletID || st.GetLogPath() != r.podLog("pod", "0.log") {
		t.Errorf("asked for %s, told %v", virtletID, st)
	}
}

// TestAttemptsOfAnOldRecord is an upgrade from a release that had no IDs of an
// attempt's own.
func TestAttemptsOfAnOldRecord(t *testing.T) {
	r, v := newVirtletRig(t, "auto,-attempts")
	r.attempt(0)
	v.powerOff()
	r.attempt(1)
	r.cfg.Personality = personality.Choice{}
	r.restart()
	eventually(t, "it has the attempt's ID", func() bool { return slices.Equal(r.listed(nil), []string{"-1 1 RUNNING"}) })
	if got := r.status(virtletID + "-1"); got.Annotations["io.kubernetes.container.restartCount"] != "1" || got.LogPath != r.podLog("pod", "1.log") {
		t.Errorf("the attempt: %v", got)
	}
	v.powerOff()
	r.attempt(2)
	r.wantListed("-2 2 RUNNING", "-1 1 EXITED")
}

// TestAttemptsSwitchedOff takes the repair away from a container that has it, and
// gives it back.
func TestAttemptsSwitchedOff(t *testing.T) {
	for _, test := range []struct{ runtime, on, off string }{
		{"virtlet", "auto", "auto,-attempts"},
		{"docker", "virtlet", "auto"}, // as CRIProxy calls itself
	} {
		t.Run(test.off, func(t *testing.T) {
			r, v := newVirtletRig(t, test.on)
			callRuntime(r.backend, test.runtime)
			r.restart()
			r.attempt(0)
			v.powerOff()
			r.attempt(1)
			v.powerOff()
			r.attempt(2)
			r.personality(test.off)
			r.restart()
			r.wantListed(" 0 RUNNING") // what the runtime says
			if got := r.status(virtletID); got.Id != virtletID || got.State != runtimeapi.ContainerState_CONTAINER_RUNNING || got.LogPath != r.podLog("pod", "2.log") {
				t.Errorf("the container: %v", got)
			}
			if err := r.stopContainer(virtletID); err != nil || !slices.Equal(v.calls, []string{"stop " + virtletID}) {
				t.Errorf("stop: %v, and the runtime was told %q", err, v.calls)
			}

			listPod(r.backend, "pod", nil)
			r.restart()
			eventually(t, "there are no attempts on record", func() bool {
				record, _ := r.logs.Container(virtletID)
				return len(r.logs.Attempts()) == 0 && record.KubeletID == ""
			})
			r.attempt(1) // as kubelet counts by what it is told
			r.personality(test.on)
			r.restart()
			eventually(t, "it has the attempt's ID", func() bool { return slices.Equal(r.listed(nil), []string{"-1 1 RUNNING"}) })
		})
	}
}

// TestOtherRuntimeForAWhile has another runtime answer that knows nothing of the
// pod.
func TestOtherRuntimeForAWhile(t *testing.T) {
	r, v := newVirtletRig(t, "auto")
	r.attempt(0)
	v.powerOff()
	r.attempt(1)
	r.stop()
	other, err := proxytest.NewBackend(proxytest.BackendOptions{APIs: []string{proxytest.V1}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(other.Close)
	callRuntime(other, "another")
	listNothing(other)
	listPod(other, "other", nil)
	r.cfg.RuntimeSocket = other.Socket()
	r.start()
	eventually(t, "it has compared", func() bool { _, ok := r.logs.Sandbox("uid-other"); return ok })
	r.stop()
	r.cfg.RuntimeSocket = r.backend.Socket()
	r.start()
	r.wantListed("-1 1 RUNNING", " 0 EXITED")
}

// TestStoppedDiskAgain has the container of a stopped VM stay at the runtime,
// because it could not be removed, or because nobody knows that it was stopped.
func TestStoppedDiskAgain(t *testing.T) {
	removed := []string{"remove " + virtletID}
	t.Run("not removed", func(t *testing.T) {
		r, v := newVirtletRig(t, "auto")
		r.attempt(0)
		if err := r.stopContainer(virtletID); err != nil {
			t.Fatal(err)
		}
		v.calls, v.remove, v.start = nil, errors.New("try again"), errors.New("Cannot access storage file '/var/lib/virtlet/volumes/virtlet_root_0'")
		id := r.create("pod", 1, nil)
		if _, err := r.client.StartContainer(t.Context(), &runtimeapi.StartContainerRequest{ContainerId: id}); err == nil || !slices.Equal(v.calls, removed) {
			t.Fatalf("start: %v, and the runtime was told %q", err, v.calls)
		}
		v.calls, v.remove, v.start = nil, nil, nil
		r.attempt(2)
		v.powerOff()
		r.attempt(3) // has its disk
		if !slices.Equal(v.calls, removed) {
			t.Errorf("the runtime was told %q", v.calls)
		}
	})
	t.Run("forgotten", func(t *testing.T) {
		r, v := newVirtletRig(t, "auto")
		r.attempt(0)
		v.powerOff()
		v.start = errors.New("Cannot access storage file '/var/lib/virtlet/volumes/virtlet_root_0'")
		id := r.create("pod", 1, nil)
		if _, err := r.client.StartContainer(t.Context(), &runtimeapi.StartContainerRequest{ContainerId: id}); err == nil {
			t.Fatal("it has started")
		}
		v.start = nil
		r.attempt(2)
		if !slices.Equal(v.calls, removed) {
			t.Errorf("the runtime was told %q", v.calls)
		}
		v.start = errors.New("Cannot access storage file '/dev/mapper/pv'")
		v.powerOff()
		id = r.create("pod", 3, nil)
		if _, err := r.client.StartContainer(t.Context(), &runtimeapi.StartContainerRequest{ContainerId: id}); err == nil {
			t.Fatal("it has started")
		}
		v.start = nil
		r.attempt(4) // has its disk
		if !slices.Equal(v.calls, removed) {
			t.Errorf("without another disk, the runtime was told %q", v.calls)
		}
	})
}

// TestAttemptsOfARemovedSandbox is one that was never on record.
func TestAttemptsOfARemovedSandbox(t *testing.T) {
	r, v := newVirtletRig(t, "auto")
	r.attempt(0)
	v.powerOff()
	r.attempt(1)
	v.mu.Lock()
	v.c = nil
	v.mu.Unlock()
	if _, err := r.client.RemovePodSandbox(t.Context(), &runtimeapi.RemovePodSandboxRequest{PodSandboxId: "uid-pod"}); err != nil {
		t.Fatal(err)
	}
	r.wantListed()
}

// TestAttemptsSeenAllTheTime has kubelet look all the time, as its PLEG, its
// garbage collector and its log manager do, while attempts come and go.
func TestAttemptsSeenAllTheTime(t *testing.T) {
	for _, replaces := range []bool{false, true} {
		t.Run(map[bool]string{false: "1.0", true: "0.8.2"}[replaces], func(t *testing.T) {
			r, v := newVirtletRig(t, "auto")
			v.replaces = replaces
			r.attempt(0)
			done := make(chan struct{})
			var lookers sync.WaitGroup
			for range 2 {
				lookers.Go(func() {
					for newest := uint32(0); ; {
						select {
						case <-done:
							return
						default:
							newest = r.look(newest)
						}
					}
				})
			}
			for n := uint32(1); n < 10; n++ {
				v.powerOff()
				r.attempt(n)
			}
			close(done)
			lookers.Wait()
		})
	}
}

// look checks that the attempts that are seen are all there are, that each is
// itself and that only the last may not be over. It returns that one.
func (r *rig) look(newest uint32) uint32 {
	resp, err := r.client.ListContainers(r.t.Context(), &runtimeapi.ListContainersRequest{})
	if err != nil {
		r.t.Error(err)
		return newest
	}
	if n := uint32(len(resp.Containers)); n <= newest {
		r.t.Errorf("there were %d attempts, and are %d", newest+1, n)
		return newest
	}
	newest = uint32(len(resp.Containers)) - 1
	for _, c := range resp.Containers {
		n := c.Metadata.Attempt
		if c.Id != personality.AttemptID(virtletID, n) || n > newest || n < newest && c.State != runtimeapi.ContainerState_CONTAINER_EXITED {
			r.t.Errorf("one of %d attempts: %v", newest+1, c)
		}
		resp, err := r.client.ContainerStatus(r.t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: c.Id})
		st := resp.GetStatus()
		if err != nil || st.Id != c.Id || st.Metadata.Attempt != n || !strings.HasSuffix(st.LogPath, "/"+itoa(n)+".log") || st.Annotations["io.kubernetes.container.restartCount"] != itoa(n) {
			r.t.Errorf("%s is %v, %v", c.Id, resp, err)
		}
	}
	return newest
}

// TestStartTakesItsTime has kubelet look while the next attempt starts, and the
// runtime still says EXITED of the one before. kubelet removes the attempt before
// one that is over (pkg/kubelet/pod_container_deletor.go), and its log.
func TestStartTakesItsTime(t *testing.T) {
	r, v := newVirtletRig(t, "auto")
	r.attempt(0)
	v.powerOff()
	asked, goOn := make(chan struct{}), make(chan struct{})
	got := make(chan *runtimeapi.ContainerStatus, 1)
	v.starting = func() {
		r.wantListed("-1 1 CREATED", " 0 EXITED")
		var first sync.Once
		v.answered = func() {
			first.Do(func() {
				close(asked)
				<-goOn
			})
		}
		go func() {
			resp, err := r.client.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: virtletID + "-1"})
			if err != nil {
				t.Error(err)
			}
			got <- resp.GetStatus()
		}()
		<-asked
	}
	r.attempt(1)
	close(goOn)
	if st := <-got; st.GetState() != runtimeapi.ContainerState_CONTAINER_RUNNING || st.GetFinishedAt() != 0 {
		t.Errorf("when it has started: %v", st)
	}
	r.wantListed("-1 1 RUNNING", " 0 EXITED")
}
