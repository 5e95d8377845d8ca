package proxy_test

import (
	"context"
	"errors"
	"fmt"
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

	"github.com/cri-logproxy/cri-logproxy/proxy/proxytest"
)

// TestUnsafePaths checks that nothing is opened where it must not be, that the
// VM starts, and that kubelet is told a path at which nothing can be.
func TestUnsafePaths(t *testing.T) {
	for name, change := range map[string]func(*rig, *runtimeapi.CreateContainerRequest){
		"absolute log path":  func(r *rig, q *runtimeapi.CreateContainerRequest) { q.Config.LogPath = r.dir + "/evil.log" },
		"dots in log path":   func(_ *rig, q *runtimeapi.CreateContainerRequest) { q.Config.LogPath = "../../evil.log" },
		"log path not clean": func(_ *rig, q *runtimeapi.CreateContainerRequest) { q.Config.LogPath = "vm/../vm/0.log" },
		"directory elsewhere": func(r *rig, q *runtimeapi.CreateContainerRequest) {
			q.SandboxConfig.LogDirectory = r.dir + "/elsewhere"
		},
		"directory with dots":   func(r *rig, q *runtimeapi.CreateContainerRequest) { q.SandboxConfig.LogDirectory += "/../.." },
		"directory is the root": func(r *rig, q *runtimeapi.CreateContainerRequest) { q.SandboxConfig.LogDirectory = r.cfg.PodLogsDir },
		"relative directory":    func(_ *rig, q *runtimeapi.CreateContainerRequest) { q.SandboxConfig.LogDirectory = "pods" },
		"no directory":          func(_ *rig, q *runtimeapi.CreateContainerRequest) { q.SandboxConfig.LogDirectory = "" },
		"no log path":           func(_ *rig, q *runtimeapi.CreateContainerRequest) { q.Config.LogPath = "" },
		"sandbox ID with dots":  func(_ *rig, q *runtimeapi.CreateContainerRequest) { q.PodSandboxId = "../etc" },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, nil, nil)
			oneContainer(r.backend, "c1")
			before := files(t, r.dir)
			id := r.create("pod", 0, func(q *runtimeapi.CreateContainerRequest) { change(r, q) })
			r.startContainer(id)
			statusOf(r.backend, runtimeapi.ContainerState_CONTAINER_RUNNING, nil)
			if got := r.status(id).LogPath; got != noLog(id) {
				t.Errorf("kubelet is told %q", got)
			}
			c, _ := r.logs.Container(id)
			if c.Problem == "" || !c.Started {
				t.Errorf("on record: %+v", c)
			}
			_, err := r.client.ReopenContainerLog(t.Context(), &runtimeapi.ReopenContainerLogRequest{ContainerId: id})
			if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), c.Problem) {
				t.Errorf("ReopenContainerLog: %v", err)
			}
			if after := files(t, r.dir); !slices.Equal(after, before) {
				t.Errorf("files before %q, after %q", before, after)
			}
		})
	}
}

// files lists the regular files below dir that are not state.
func files(t *testing.T, dir string) (list []string) {
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if d.IsDir() && d.Name() == "state" {
			return fs.SkipDir
		}
		if d.Type().IsRegular() {
			list = append(list, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// TestSymlinkedLogDirectory is a log directory that leads out of kubelet's.
func TestSymlinkedLogDirectory(t *testing.T) {
	r := newRig(t, nil, nil)
	oneContainer(r.backend, "c1")
	outside := filepath.Join(r.dir, "outside")
	if err := os.Mkdir(outside, 0o755); err != nil {
		t.Fatal(err)
	}
	id := r.create("pod", 0, nil)
	pod := r.sandboxConfig("pod").LogDirectory
	if err := errors.Join(os.RemoveAll(pod), os.Symlink(outside, pod), os.Mkdir(filepath.Join(outside, "vm"), 0o755)); err != nil {
		t.Fatal(err)
	}
	r.startContainer(id)
	if _, err := os.Stat(filepath.Join(outside, "vm", "0.log")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a log was made outside: %v", err)
	}
}

// TestNeverAnEmptyLogPath checks containers that the proxy knows nothing of.
func TestNeverAnEmptyLogPath(t *testing.T) {
	r := newRig(t, nil, nil)
	labels := map[string]string{
		"io.kubernetes.pod.namespace": "ns", "io.kubernetes.pod.name": "pod", "io.kubernetes.pod.uid": "uid-pod",
		"io.kubernetes.container.name": "vm",
	}
	for i, test := range []struct {
		st   *runtimeapi.ContainerStatus
		want string
	}{
		{&runtimeapi.ContainerStatus{Labels: labels}, r.podLog("pod", "0.log")},
		{&runtimeapi.ContainerStatus{Labels: labels, Metadata: &runtimeapi.ContainerMetadata{Attempt: 2}}, r.podLog("pod", "2.log")},
		{&runtimeapi.ContainerStatus{Labels: labels, Annotations: map[string]string{"io.kubernetes.container.restartCount": "7"}}, r.podLog("pod", "7.log")},
		{&runtimeapi.ContainerStatus{Labels: labels, LogPath: "vm/0.log"}, r.podLog("pod", "0.log")},
		{&runtimeapi.ContainerStatus{Labels: labels, LogPath: "/var/log/vms/uid-pod/_0.log"}, r.podLog("pod", "0.log")},
		{&runtimeapi.ContainerStatus{LogPath: "/some/where/0.log"}, "/some/where/0.log"},
		{&runtimeapi.ContainerStatus{}, ""},
		{&runtimeapi.ContainerStatus{LogPath: "0.log"}, ""},
		{&runtimeapi.ContainerStatus{Labels: map[string]string{"io.kubernetes.pod.namespace": "..", "io.kubernetes.pod.name": "a/b"}}, ""},
	} {
		test.st.Id = fmt.Sprintf("unknown-%d", i)
		if test.want == "" {
			test.want = noLog(test.st.Id)
		}
		st := test.st
		r.backend.Handle("ContainerStatus", proxytest.Typed(func(context.Context, *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
			return &runtimeapi.ContainerStatusResponse{Status: st}, nil
		}))
		if got := r.status(st.Id).LogPath; got != test.want {
			t.Errorf("%v: kubelet is told %q, want %q", st, got, test.want)
		}
		r.backend.Handle("PodSandboxStatus", proxytest.Typed(func(context.Context, *runtimeapi.PodSandboxStatusRequest) (*runtimeapi.PodSandboxStatusResponse, error) {
			return &runtimeapi.PodSandboxStatusResponse{ContainersStatuses: []*runtimeapi.ContainerStatus{st}}, nil
		}))
		resp, err := r.client.PodSandboxStatus(t.Context(), &runtimeapi.PodSandboxStatusRequest{})
		if err != nil || resp.ContainersStatuses[0].LogPath != test.want {
			t.Errorf("%v: PodSandboxStatus: %v, %v", st, resp, err)
		}
		r.backend.Handle("GetContainerEvents", func(s *proxytest.Stream) error {
			b, err := proto.Marshal(&runtimeapi.ContainerEventResponse{ContainersStatuses: []*runtimeapi.ContainerStatus{st}})
			return errors.Join(err, s.Send(b))
		})
		events, err := r.client.GetContainerEvents(t.Context(), &runtimeapi.GetEventsRequest{})
		if err != nil {
			t.Fatal(err)
		}
		event, err := events.Recv()
		if err != nil || event.ContainersStatuses[0].LogPath != test.want {
			t.Errorf("%v: GetContainerEvents: %v, %v", st, event, err)
		}
	}
}
