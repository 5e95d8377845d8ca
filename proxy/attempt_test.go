package proxy_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestAttempts is a crash loop at a runtime that has one container ID and
// counts the first attempt only.
func TestAttempts(t *testing.T) {
	r, v := newVirtletRig(t, "auto")
	want := func(list ...string) {
		t.Helper()
		if got := r.listed(nil); !slices.Equal(got, list) {
			t.Errorf("listed: %q, want %q", got, list)
		}
	}
	if id := r.attempt(0); id != virtletID {
		t.Errorf("the first attempt is %s", id)
	}
	want(" 0 RUNNING")
	v.powerOff()
	want(" 0 EXITED")
	first := r.status(virtletID)
	if first.FinishedAt == 0 || first.Reason != "Completed" || r.status(virtletID).FinishedAt != first.FinishedAt {
		t.Errorf("the end of the first attempt: %v", first)
	}

	// While the runtime makes it, there is no second attempt yet.
	v.create = func() error { want(" 0 EXITED"); return nil }
	id := r.create("pod", 1, func(req *runtimeapi.CreateContainerRequest) {
		req.Config.Annotations = map[string]string{"io.kubernetes.container.restartCount": "1"}
	})
	v.create = nil
	if id != virtletID+"-1" {
		t.Errorf("the second attempt is %s", id)
	}
	want("-1 1 CREATED", " 0 EXITED")
	r.startContainer(id)
	want("-1 1 RUNNING", " 0 EXITED")
	second := r.status(id)
	if second.Id != id || second.Annotations["io.kubernetes.container.restartCount"] != "1" || second.CreatedAt <= first.CreatedAt ||
		second.LogPath != r.podLog("pod", "1.log") {
		t.Errorf("the second attempt: %v", second)
	}
	if got := r.status(virtletID); got.LogPath != r.podLog("pod", "0.log") || got.FinishedAt != first.FinishedAt {
		t.Errorf("the first attempt, when it is over: %v", got)
	}

	v.powerOff()
	r.attempt(2)
	r.restart()
	want("-2 2 RUNNING", " 0 EXITED", "-1 1 EXITED")
	for filter, list := range map[*runtimeapi.ContainerFilter][]string{
		{Id: virtletID + "-1"}:      {"-1 1 EXITED"},
		{Id: virtletID + "-2"}:      {"-2 2 RUNNING"},
		{Id: virtletID + "-3"}:      nil,
		{PodSandboxId: "uid-other"}: nil,
		{State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_EXITED}}: {" 0 EXITED", "-1 1 EXITED"},
	} {
		if got := r.listed(filter); !slices.Equal(got, list) {
			t.Errorf("listed with %v: %q, want %q", filter, got, list)
		}
	}

	// kubelet removes the oldest. Nothing of that reaches the VM, not even if it
	// does so twice.
	for range 2 {
		if _, err := r.client.RemoveContainer(t.Context(), &runtimeapi.RemoveContainerRequest{ContainerId: virtletID}); err != nil {
			t.Error(err)
		}
	}
	for _, call := range []func() error{
		func() error {
			_, err := r.client.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: virtletID})
			return err
		},
		func() error {
			_, err := r.client.StopContainer(t.Context(), &runtimeapi.StopContainerRequest{ContainerId: virtletID})
			return err
		},
	} {
		if err := call(); status.Code(err) != codes.NotFound {
			t.Errorf("of a removed attempt: %v", err)
		}
	}
	if _, err := r.client.StopContainer(t.Context(), &runtimeapi.StopContainerRequest{ContainerId: virtletID + "-1"}); err != nil {
		t.Error(err)
	}
	if _, err := r.client.StartContainer(t.Context(), &runtimeapi.StartContainerRequest{ContainerId: virtletID + "-1"}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("start an attempt that is over: %v", err)
	}
	want("-2 2 RUNNING", "-1 1 EXITED")

	// Without any record: the logs say which attempt it is.
	r.stop()
	if err := os.RemoveAll(filepath.Join(r.dir, "state")); err != nil {
		t.Fatal(err)
	}
	r.start()
	eventually(t, "the attempt is known", func() bool { return slices.Equal(r.listed(nil), []string{"-2 2 RUNNING"}) })
	if got := r.status(virtletID + "-2"); got.LogPath != r.podLog("pod", "2.log") || got.Metadata.Attempt != 2 ||
		got.Annotations["io.kubernetes.container.restartCount"] != "2" {
		t.Errorf("the third attempt, without a record: %v", got)
	}
	if _, err := r.client.RemoveContainer(t.Context(), &runtimeapi.RemoveContainerRequest{ContainerId: virtletID + "-2"}); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(v.calls, []string{"remove " + virtletID}) {
		t.Errorf("the runtime was told %q", v.calls)
	}
	want()
}
