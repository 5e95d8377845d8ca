package proxy_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-logproxy/cri-logproxy/proxy"
	"github.com/cri-logproxy/cri-logproxy/proxy/logmap"
	"github.com/cri-logproxy/cri-logproxy/proxy/proxytest"
)

// statusOf makes the fake runtime answer ContainerStatus as Virtlet does: with
// no log path.
func statusOf(b *proxytest.Backend, state runtimeapi.ContainerState, before func()) {
	b.Handle("ContainerStatus", proxytest.Typed(func(_ context.Context, req *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
		if before != nil {
			before()
		}
		return &runtimeapi.ContainerStatusResponse{Status: &runtimeapi.ContainerStatus{Id: req.ContainerId, State: state}}, nil
	}))
}

func (r *rig) status(id string) *runtimeapi.ContainerStatus {
	r.t.Helper()
	resp, err := r.client.ContainerStatus(r.t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		r.t.Fatal(err)
	}
	return resp.Status
}

// request returns the last request of a method that the backend got.
func (r *rig) request(method string) []byte {
	calls := r.backend.Journal()
	slices.Reverse(calls)
	for _, c := range calls {
		if strings.HasSuffix(c.Method, "/"+method) {
			return c.Requests[0]
		}
	}
	r.t.Fatalf("the runtime was not asked to %s", method)
	return nil
}

func TestLifeOfAContainer(t *testing.T) {
	r := newRig(t, nil, nil)
	oneContainer(r.backend, "c1")
	log := r.podLog("pod", "0.log")

	r.backend.Handle("RunPodSandbox", proxytest.Typed(func(context.Context, *runtimeapi.RunPodSandboxRequest) (*runtimeapi.RunPodSandboxResponse, error) {
		return &runtimeapi.RunPodSandboxResponse{PodSandboxId: "uid-pod"}, nil
	}))
	if _, err := r.client.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: r.sandboxConfig("pod")}); err != nil {
		t.Fatal(err)
	}
	if s, ok := r.logs.Sandbox("uid-pod"); !ok || s.LogDirectory != r.sandboxConfig("pod").LogDirectory || s.Name != "pod" {
		t.Errorf("sandbox on record: %+v", s)
	}

	id := r.create("pod", 0, nil)
	var req runtimeapi.CreateContainerRequest
	if err := proto.Unmarshal(r.request("CreateContainer"), &req); err != nil {
		t.Fatal(err)
	}
	if req.SandboxConfig.LogDirectory != "/var/log/vms/uid-pod" || req.Config.LogPath != "_0.log" {
		t.Errorf("the runtime was told %s and %s", req.SandboxConfig.LogDirectory, req.Config.LogPath)
	}

	r.backend.Handle("StartContainer", proxytest.Typed(func(context.Context, *runtimeapi.StartContainerRequest) (*runtimeapi.StartContainerResponse, error) {
		if _, err := os.Stat(log); err != nil {
			t.Errorf("when the runtime is asked to start: %v", err)
		}
		r.writeRaw("uid-pod/_0.log", "first line\r\nlogin: ")
		return &runtimeapi.StartContainerResponse{}, nil
	}))
	r.startContainer(id)
	want := []string{"first line", "login: "}
	eventually(t, "the prompt is in the log", func() bool { return slices.Equal(contents(t, log), want) })

	statusOf(r.backend, runtimeapi.ContainerState_CONTAINER_RUNNING, nil)
	if got := r.status(id).LogPath; got != log {
		t.Errorf("kubelet is told %q", got)
	}

	// Rotation, as kubelet does it.
	if err := os.Rename(log, log+".20261123-090000"); err != nil {
		t.Fatal(err)
	}
	if _, err := r.client.ReopenContainerLog(t.Context(), &runtimeapi.ReopenContainerLogRequest{ContainerId: id}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(log); err != nil {
		t.Errorf("after ReopenContainerLog: %v", err)
	}

	// An upgrade of the proxy while the VM writes.
	r.stop()
	r.writeRaw("uid-pod/_0.log", "root\r\nafter the upgrade\r\n")
	r.start()

	// The last bytes are in the log when kubelet hears EXITED.
	statusOf(r.backend, runtimeapi.ContainerState_CONTAINER_EXITED, func() { r.writeRaw("uid-pod/_0.log", "powering off") })
	if st := r.status(id); st.State != runtimeapi.ContainerState_CONTAINER_EXITED || st.LogPath != log {
		t.Errorf("status %v", st)
	}
	if got := contents(t, log); !slices.Equal(got, []string{"root", "after the upgrade", "powering off"}) {
		t.Errorf("log when EXITED is known: %q", got)
	}

	// kubelet deletes the log, then the container.
	if err := os.Remove(log); err != nil {
		t.Fatal(err)
	}
	r.writeRaw("uid-pod/_0.log", "too late")
	if _, err := r.client.RemoveContainer(t.Context(), &runtimeapi.RemoveContainerRequest{ContainerId: id}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(log); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the deleted log: %v", err)
	}
	if _, ok := r.logs.Container(id); ok {
		t.Error("the removed container is on record")
	}
	if _, err := r.client.RemovePodSandbox(t.Context(), &runtimeapi.RemovePodSandboxRequest{PodSandboxId: "uid-pod"}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(r.cfg.VMLogDir, "uid-pod")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the raw directory of the removed sandbox: %v", err)
	}
	for _, dir := range []string{"containers", "sandboxes", "checkpoints"} {
		if left, _ := os.ReadDir(filepath.Join(r.dir, "state", dir)); len(left) > 0 {
			t.Errorf("left in %s: %v", dir, left)
		}
	}
}

func TestPTY(t *testing.T) {
	r := newRig(t, nil, func(c *proxy.Config) { c.VMLogLocation, c.VMLogDir, c.LogMode = "", "", logmap.ModePTY })
	oneContainer(r.backend, "c1")
	var sent []byte
	id := r.create("pod", 0, func(req *runtimeapi.CreateContainerRequest) {
		var err error
		if sent, err = proto.Marshal(req); err != nil {
			t.Fatal(err)
		}
	})
	if got := r.request("CreateContainer"); !bytes.Equal(got, sent) {
		t.Errorf("the runtime got %x, kubelet sent %x", got, sent)
	}
	if c, _ := r.logs.Container(id); c.Mode != logmap.ModePTY || len(c.RawLogs) > 0 {
		t.Errorf("on record: %+v", c)
	}
	r.startContainer(id)
	log := r.podLog("pod", "0.log")
	notice := []string{"[cri-logproxy] this VM's console is a pty (mode pty): it has no log; use `virsh console` on its node"}
	if got := contents(t, log); !slices.Equal(got, notice) {
		t.Errorf("log: %q", got)
	}
	statusOf(r.backend, runtimeapi.ContainerState_CONTAINER_RUNNING, nil)
	if got := r.status(id).LogPath; got != log {
		t.Errorf("kubelet is told %q", got)
	}
	r.restart()
	if got := contents(t, log); !slices.Equal(got, notice) {
		t.Errorf("log after a restart: %q", got)
	}
}

// TestSameIDNextAttempt is a runtime that gives a sandbox one container ID for
// good, and one raw log (Virtlet 1.0 and later) or one per attempt (before).
func TestSameIDNextAttempt(t *testing.T) {
	for _, test := range []struct{ name, rawOfNext string }{{"same raw log", "_0.log"}, {"new raw log", "_1.log"}} {
		t.Run(test.name, func(t *testing.T) {
			r := newRig(t, nil, nil)
			oneContainer(r.backend, "c1")
			id := r.create("pod", 0, nil)
			r.startContainer(id)
			r.writeRaw("uid-pod/_0.log", "boot 0\npanic")
			statusOf(r.backend, runtimeapi.ContainerState_CONTAINER_EXITED, nil)
			r.status(id)
			r.create("pod", 1, nil)
			r.backend.Handle("StartContainer", proxytest.Typed(func(context.Context, *runtimeapi.StartContainerRequest) (*runtimeapi.StartContainerResponse, error) {
				raw := filepath.Join(r.cfg.VMLogDir, "uid-pod", test.rawOfNext)
				if err := os.WriteFile(raw, nil, 0o600); err != nil { // truncates, as libvirt does
					t.Error(err)
				}
				return &runtimeapi.StartContainerResponse{}, nil
			}))
			r.startContainer(id)
			r.writeRaw("uid-pod/"+test.rawOfNext, "boot 1\n")
			if got, want := r.status(id).LogPath, r.podLog("pod", "1.log"); got != want {
				t.Errorf("kubelet is told %q, want %q", got, want)
			}
			if got := contents(t, r.podLog("pod", "0.log")); !slices.Equal(got, []string{"boot 0", "panic"}) {
				t.Errorf("0.log: %q", got)
			}
			if got := contents(t, r.podLog("pod", "1.log")); !slices.Equal(got, []string{"boot 1"}) {
				t.Errorf("1.log: %q", got)
			}
		})
	}
}

// TestStateLost wipes the record under a running VM.
func TestStateLost(t *testing.T) {
	r := newRig(t, nil, nil)
	oneContainer(r.backend, "c1")
	id := r.create("pod", 1, nil)
	r.startContainer(id)
	log := r.podLog("pod", "1.log")
	r.writeRaw("uid-pod/_1.log", "one\n")
	eventually(t, "one line", func() bool { return slices.Equal(contents(t, log), []string{"one"}) })
	r.stop()
	if err := os.RemoveAll(filepath.Join(r.dir, "state")); err != nil {
		t.Fatal(err)
	}
	r.writeRaw("uid-pod/_1.log", "two\n")
	r.backend.Handle("ListContainers", proxytest.Typed(func(context.Context, *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
		return &runtimeapi.ListContainersResponse{Containers: []*runtimeapi.Container{{
			Id: id, PodSandboxId: "uid-pod", State: runtimeapi.ContainerState_CONTAINER_RUNNING,
			Labels: map[string]string{
				"io.kubernetes.pod.namespace": "ns", "io.kubernetes.pod.name": "pod", "io.kubernetes.pod.uid": "uid-pod",
				"io.kubernetes.container.name": "vm",
			},
			Annotations: map[string]string{"io.kubernetes.container.restartCount": "1"},
		}}}, nil
	}))
	r.start()
	eventually(t, "the second line", func() bool { return slices.Equal(contents(t, log), []string{"one", "two"}) })
	c, ok := r.logs.Container(id)
	if !ok || c.ContainerLog != log || c.RawLogs[0] != "uid-pod/_1.log" {
		t.Errorf("on record: %+v", c)
	}
}

// TestRuntimeComesAndGoes checks that calls answer Unavailable at once while the
// runtime is away, and work again when it is back.
func TestRuntimeComesAndGoes(t *testing.T) {
	r := newRig(t, nil, nil)
	for range 2 {
		if _, err := r.client.Version(t.Context(), &runtimeapi.VersionRequest{}); err != nil {
			t.Fatal(err)
		}
		r.backend.Stop()
		eventually(t, "Unavailable", func() bool {
			_, err := r.client.Version(t.Context(), &runtimeapi.VersionRequest{})
			return status.Code(err) == codes.Unavailable
		})
		_, err := r.client.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: "c"})
		if status.Code(err) != codes.Unavailable {
			t.Errorf("an intercepted call: %v", err)
		}
		if err := r.backend.Restart(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the runtime is back", func() bool {
			_, err := r.client.Version(t.Context(), &runtimeapi.VersionRequest{})
			return err == nil
		})
	}
}

// TestV1alpha2 checks that the older API is served by the same tables.
func TestV1alpha2(t *testing.T) {
	r := newRig(t, nil, nil)
	oneContainer(r.backend, "c1")
	conn, err := proxytest.Dial(r.socket())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	const service = "/runtime.v1alpha2.RuntimeService/"
	log := r.podLog("pod", "0.log")
	var created runtimeapi.CreateContainerResponse
	if err := conn.Invoke(t.Context(), service+"CreateContainer", &runtimeapi.CreateContainerRequest{
		PodSandboxId: "uid-pod", SandboxConfig: r.sandboxConfig("pod"),
		Config: &runtimeapi.ContainerConfig{Metadata: &runtimeapi.ContainerMetadata{Name: "vm"}, LogPath: "vm/0.log"},
	}, &created); err != nil {
		t.Fatal(err)
	}
	if err := conn.Invoke(t.Context(), service+"StartContainer", &runtimeapi.StartContainerRequest{ContainerId: "c1"}, &runtimeapi.StartContainerResponse{}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(log); err != nil {
		t.Error(err)
	}
	statusOf(r.backend, runtimeapi.ContainerState_CONTAINER_RUNNING, nil)
	var st runtimeapi.ContainerStatusResponse
	if err := conn.Invoke(t.Context(), service+"ContainerStatus", &runtimeapi.ContainerStatusRequest{ContainerId: "c1"}, &st); err != nil || st.Status.LogPath != log {
		t.Errorf("ContainerStatus: %v, %v", &st, err)
	}
	for _, c := range r.backend.Journal() {
		if strings.HasSuffix(c.Method, "/CreateContainer") && !strings.HasPrefix(c.Method, service) {
			t.Errorf("the runtime was called by %s", c.Method)
		}
	}
}

// TestUnwritableState checks that a VM starts and is logged when its record
// cannot be written.
func TestUnwritableState(t *testing.T) {
	r := newRig(t, nil, nil)
	oneContainer(r.backend, "c1")
	for _, dir := range []string{"containers", "checkpoints"} {
		// Root writes anywhere, but not into a file.
		path := filepath.Join(r.dir, "state", dir)
		if err := errors.Join(os.RemoveAll(path), os.WriteFile(path, nil, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	id := r.create("pod", 0, nil)
	r.startContainer(id)
	r.writeRaw("uid-pod/_0.log", "all the same\n")
	eventually(t, "the line", func() bool { return slices.Equal(contents(t, r.podLog("pod", "0.log")), []string{"all the same"}) })
	for _, dir := range []string{"containers", "checkpoints"} {
		path := filepath.Join(r.dir, "state", dir)
		if err := errors.Join(os.Remove(path), os.Mkdir(path, 0o700)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestRemoveNoSandbox removes a sandbox without an ID: nothing of the others'
// is lost.
func TestRemoveNoSandbox(t *testing.T) {
	r := newRig(t, nil, nil)
	oneContainer(r.backend, "c1")
	id := r.create("pod", 0, nil)
	r.startContainer(id)
	if _, err := r.client.RemovePodSandbox(t.Context(), &runtimeapi.RemovePodSandboxRequest{}); err != nil {
		t.Fatal(err)
	}
	if _, ok := r.logs.Container(id); !ok {
		t.Error("a container of another sandbox is forgotten")
	}
	r.writeRaw("uid-pod/_0.log", "still there\n")
	eventually(t, "the line", func() bool { return slices.Equal(contents(t, r.podLog("pod", "0.log")), []string{"still there"}) })
}

// TestStartedPastUs is a VM that somebody has started at the runtime itself.
func TestStartedPastUs(t *testing.T) {
	r := newRig(t, nil, nil)
	oneContainer(r.backend, "c1")
	r.backend.Handle("ListContainers", proxytest.Typed(func(context.Context, *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
		return &runtimeapi.ListContainersResponse{Containers: []*runtimeapi.Container{{Id: "c1", State: runtimeapi.ContainerState_CONTAINER_RUNNING}}}, nil
	}))
	id := r.create("pod", 0, nil)
	r.writeRaw("uid-pod/_0.log", "booted\n")
	if _, err := r.client.ReopenContainerLog(t.Context(), &runtimeapi.ReopenContainerLogRequest{ContainerId: id}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the line", func() bool { return slices.Equal(contents(t, r.podLog("pod", "0.log")), []string{"booted"}) })

	// The same, found at a restart.
	r.create("pod", 1, nil)
	r.restart()
	eventually(t, "a log", func() bool { _, err := os.Stat(r.podLog("pod", "1.log")); return err == nil })
}

// TestLogDirectoryComesLate makes kubelet's directory after the VM has started.
func TestLogDirectoryComesLate(t *testing.T) {
	r := newRig(t, nil, nil)
	oneContainer(r.backend, "c1")
	id := r.create("pod", 0, nil)
	dir := filepath.Dir(r.podLog("pod", "0.log"))
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	r.startContainer(id)
	r.writeRaw("uid-pod/_0.log", "booted\n")
	log := r.podLog("pod", "0.log") // makes the directory
	eventually(t, "the line", func() bool {
		_, err := os.Stat(log)
		return err == nil && slices.Equal(contents(t, log), []string{"booted"})
	})
}
