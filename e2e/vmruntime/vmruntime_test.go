package vmruntime

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-logproxy/cri-logproxy/e2e/await"
	"github.com/cri-logproxy/cri-logproxy/e2e/guest"
)

// TestFileMode follows a pod from start to end, with a restart of the runtime
// in the middle.
func TestFileMode(t *testing.T) {
	t.Parallel()
	r := newRig(t, "file", V1, nil)
	r.runPod()
	boot := guest.Boot{Marker: "file-mode", Lines: 50, Known: true, FloodMB: 1, Login: true}
	created, err := r.CreateContainer(r.ctx, r.createRequest(0, boot))
	r.must(err)
	id := created.ContainerId
	if id != ContainerID(r.uid()) {
		t.Errorf("container ID %s, want %s", id, ContainerID(r.uid()))
	}
	r.wantState(id, cri.ContainerState_CONTAINER_CREATED)
	if _, err := os.Stat(r.rawLog(0)); err == nil {
		t.Error("the raw log is there before the start")
	}
	_, err = r.StartContainer(r.ctx, &cri.StartContainerRequest{ContainerId: id})
	r.must(err)
	r.wantState(id, cri.ContainerState_CONTAINER_RUNNING)
	xml, err := r.lv.Virsh(r.ctx, "dumpxml", DomainName(id, "vm"))
	r.must(err)
	for _, want := range []string{"<uuid>" + id, "<serial type='file'>", "path='" + r.rawLog(0) + "'"} {
		if !strings.Contains(xml, want) {
			t.Errorf("no %s in %s", want, xml)
		}
	}

	r.restartRuntime()
	st := r.status(id)
	want := &cri.ContainerStatus{
		Id:        id,
		Metadata:  &cri.ContainerMetadata{Name: "vm"},
		State:     cri.ContainerState_CONTAINER_RUNNING,
		CreatedAt: st.CreatedAt,
		StartedAt: st.StartedAt,
		Image:     &cri.ImageSpec{Image: "example.com/vm"},
		ImageRef:  imageID("example.com/vm"),
		Labels: map[string]string{
			labelPodName: "pod", labelPodNamespace: "default", labelPodUID: r.uid(), labelContainerName: "vm",
		},
		Annotations: map[string]string{"attempt": "0"},
	}
	if !proto.Equal(st, want) || st.CreatedAt == 0 || st.StartedAt < st.CreatedAt {
		t.Errorf("status after the runtime's restart:\n got %v\nwant %v", st, want)
	}

	raw, err := await.FileContains(r.ctx, r.rawLog(0), []byte(guest.LoginPrompt))
	r.must(err)
	r.wantConsole(raw, boot, guest.LoginPrompt)

	_, err = r.StopContainer(r.ctx, &cri.StopContainerRequest{ContainerId: id, Timeout: 1})
	r.must(err)
	r.wantState(id, cri.ContainerState_CONTAINER_EXITED)
	_, err = r.RemoveContainer(r.ctx, &cri.RemoveContainerRequest{ContainerId: id})
	r.must(err)
	if _, err := r.ContainerStatus(r.ctx, &cri.ContainerStatusRequest{ContainerId: id}); status.Code(err) != codes.Unknown {
		t.Errorf("status of a removed container: %v, want a plain error", err)
	}
	if _, err := os.Stat(r.rawLog(0)); err != nil {
		t.Errorf("RemoveContainer leaves the raw log: %v", err)
	}
	_, err = r.RemovePodSandbox(r.ctx, &cri.RemovePodSandboxRequest{PodSandboxId: r.uid()})
	r.must(err)
	if _, err := os.Stat(filepath.Dir(r.rawLog(0))); err == nil {
		t.Error("RemovePodSandbox leaves the raw logs' directory")
	}
}

// TestPtyMode types at the console, and shows that the request is kept as it
// came.
func TestPtyMode(t *testing.T) {
	t.Parallel()
	r := newRig(t, "pty", V1alpha2, nil)
	r.runPod()
	boot := guest.Boot{Marker: "pty-mode"}
	id := r.startVM(0, boot)

	got := new(cri.CreateContainerRequest)
	r.must(proto.Unmarshal(r.rt.LastCreateRequest(), got))
	if want := r.createRequest(0, boot); !proto.Equal(got, want) {
		t.Errorf("LastCreateRequest:\n got %v\nwant %v", got, want)
	}
	console, err := r.lv.OpenConsole(r.ctx, id)
	r.must(err)
	r.must(console.Send("\r"))
	r.must(console.Expect(r.ctx, guest.Prompt))
	r.must(console.Send("echo sum-$((40+2))-end\r"))
	r.must(console.Expect(r.ctx, "echo sum-$((40+2))-end\r\n"))
	r.must(console.Expect(r.ctx, "sum-42-end\r\n"))
	r.must(console.Close())
	r.wantState(id, cri.ContainerState_CONTAINER_RUNNING)
}

// TestRestart has a guest power off and creates its container anew, as kubelet
// does.
func TestRestart(t *testing.T) {
	first := guest.Boot{Marker: "first", Lines: 5, PowerOff: true}
	second := guest.Boot{Marker: "second", Lines: 2, Login: true}
	for _, c := range []struct {
		era         Era
		raw         uint32     // number of the second start's raw log
		boots       guest.Boot // what the second start boots
		wantAttempt string
	}{
		{era: Era082, raw: 1, boots: second, wantAttempt: "1"},
		{era: Era10, raw: 0, boots: first, wantAttempt: "0"},
		{era: Era15, raw: 0, boots: first, wantAttempt: "0"},
	} {
		t.Run(string(c.era), func(t *testing.T) {
			t.Parallel()
			r := newEra(t, "file", c.era, nil)
			r.runPod()
			id := r.startVM(0, first)
			r.awaitState(id, cri.ContainerState_CONTAINER_EXITED)
			raw, err := os.ReadFile(r.rawLog(0))
			r.must(err)
			r.wantConsole(raw, first, "")
			before, err := os.Stat(r.rawLog(0))
			r.must(err)
			old := r.status(id)

			if again := r.startVM(1, second); again != id {
				t.Errorf("container ID %s, want the same as before, %s", again, id)
			}
			st := r.status(id)
			if st.Annotations["attempt"] != c.wantAttempt || fmt.Sprint(st.Metadata.Attempt) != c.wantAttempt || st.FinishedAt != 0 {
				t.Errorf("status %v, want attempt %s, no finished_at", st, c.wantAttempt)
			}
			if c.raw == 0 && (st.CreatedAt != old.CreatedAt || st.LogPath != old.LogPath) {
				t.Errorf("status %v, want created_at and log_path of %v", st, old)
			}
			raw, err = await.FileContains(r.ctx, r.rawLog(c.raw), []byte(c.boots.ReadyLine()+"\r\n"))
			r.must(err)
			after, ok := strings.CutPrefix(string(raw), string(c.boots.Console()))
			if !ok || !strings.HasPrefix(guest.LoginPrompt, after) {
				t.Errorf("second boot's raw log %q", raw)
			}
			now, err := os.Stat(r.rawLog(0))
			r.must(err)
			if !os.SameFile(before, now) {
				t.Error("_0.log is another file now; it is truncated in place, if at all")
			}
			if _, err := os.Stat(r.rawLog(1)); (err == nil) != (c.raw == 1) {
				t.Errorf("_1.log: %v", err)
			}
		})
	}
}
