package proxy_test

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-logproxy/cri-logproxy/converter"
	"github.com/cri-logproxy/cri-logproxy/proxy"
	"github.com/cri-logproxy/cri-logproxy/proxy/logmap"
	"github.com/cri-logproxy/cri-logproxy/proxy/proxytest"
)

// rig is a proxy between a client and a fake runtime, with directories of its
// own.
type rig struct {
	t       *testing.T
	dir     string
	backend *proxytest.Backend
	cfg     proxy.Config
	libvirt proxy.Consoles // nil at first
	again   time.Duration  // between two looks at the runtime's lists; 0 for the proxy's own
	client  runtimeapi.RuntimeServiceClient

	logs *logmap.Map
	stop func() // ends the proxy, gracefully
}

// newRig starts a proxy in front of backend, or of a new one. configure may
// change its configuration.
func newRig(t *testing.T, backend *proxytest.Backend, configure func(*proxy.Config)) *rig {
	t.Helper()
	dir, err := os.MkdirTemp("", "rig") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if backend == nil {
		if backend, err = proxytest.NewBackend(proxytest.BackendOptions{}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(backend.Close)
		// The proxy asks at once. By itself the fake lists something.
		listNothing(backend)
	}
	r := &rig{t: t, dir: dir, backend: backend, cfg: proxy.Config{
		RuntimeSocket: backend.Socket(),
		VMLogLocation: "/var/log/vms", // as the runtime sees it
		VMLogDir:      filepath.Join(dir, "vms"),
		PodLogsDir:    filepath.Join(dir, "pods"),
		LogMode:       logmap.ModeFile,
	}}
	if configure != nil {
		configure(&r.cfg)
	}
	for _, d := range []string{"vms", "pods"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	r.start()
	t.Cleanup(func() { r.stop() })
	conn, err := proxytest.Dial(r.socket())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	r.client = runtimeapi.NewRuntimeServiceClient(conn)
	return r
}

// listNothing makes the fake runtime one that has nothing yet.
func listNothing(b *proxytest.Backend) {
	b.Handle("ListContainers", proxytest.Typed(func(context.Context, *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
		return &runtimeapi.ListContainersResponse{}, nil
	}))
	b.Handle("ListPodSandbox", proxytest.Typed(func(context.Context, *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
		return &runtimeapi.ListPodSandboxResponse{}, nil
	}))
}

// callRuntime has the fake runtime tell that name.
func callRuntime(b *proxytest.Backend, name string) {
	b.Handle("Version", proxytest.Typed(func(context.Context, *runtimeapi.VersionRequest) (*runtimeapi.VersionResponse, error) {
		return &runtimeapi.VersionResponse{Version: "0.1.0", RuntimeName: name, RuntimeVersion: "1.0", RuntimeApiVersion: "1.0"}, nil
	}))
}

// listPod has the fake runtime list one pod.
func listPod(b *proxytest.Backend, pod string, annotations map[string]string) {
	b.Handle("ListPodSandbox", proxytest.Typed(func(context.Context, *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
		return &runtimeapi.ListPodSandboxResponse{Items: []*runtimeapi.PodSandbox{{
			Id: "uid-" + pod, Metadata: &runtimeapi.PodSandboxMetadata{Namespace: "ns", Name: pod, Uid: "uid-" + pod}, Annotations: annotations,
		}}}, nil
	}))
}

func (r *rig) socket() string { return filepath.Join(r.dir, "proxy.sock") }

// start brings the proxy up, with the state that the one before has left.
func (r *rig) start() {
	r.t.Helper()
	state := filepath.Join(r.dir, "state")
	logs, damaged, err := logmap.Open(state)
	if err != nil || len(damaged) > 0 {
		r.t.Fatal(err, damaged)
	}
	converters, err := converter.NewManager(converter.Config{
		RawRoot: r.cfg.VMLogDir, LogRoot: r.cfg.PodLogsDir, StateDir: state, IdleFlush: 20 * time.Millisecond,
	})
	if err != nil {
		r.t.Fatal(err)
	}
	server, err := proxy.New(r.cfg, logs, converters, r.libvirt)
	if err != nil {
		r.t.Fatal(err)
	}
	if r.again != 0 {
		server.LookAgainAfter(r.again)
	}
	l, err := proxy.Listen(r.socket())
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx, l) }()
	r.logs = logs
	stopped := false
	r.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			r.t.Error(err)
		}
		if err := converters.Close(context.Background()); err != nil {
			r.t.Error(err)
		}
		if err := logs.Close(); err != nil {
			r.t.Error(err)
		}
	}
}

// restart is an upgrade of the proxy.
func (r *rig) restart() {
	r.t.Helper()
	r.stop()
	r.start()
}

// podLog is the path of a container log as kubelet makes its directories.
func (r *rig) podLog(pod, name string) string {
	dir := filepath.Join(r.cfg.PodLogsDir, "ns_"+pod+"_uid-"+pod, "vm")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		r.t.Fatal(err)
	}
	return filepath.Join(dir, name)
}

// writeRaw appends to a raw log, as QEMU does.
func (r *rig) writeRaw(name, text string) {
	r.t.Helper()
	path := filepath.Join(r.cfg.VMLogDir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		r.t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err == nil {
		_, err = f.WriteString(text)
		f.Close()
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

// sandboxConfig is what kubelet sends for a pod.
func (r *rig) sandboxConfig(pod string) *runtimeapi.PodSandboxConfig {
	return &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Namespace: "ns", Name: pod, Uid: "uid-" + pod},
		LogDirectory: filepath.Join(r.cfg.PodLogsDir, "ns_"+pod+"_uid-"+pod),
	}
}

// create sends the CreateContainer of a container called vm. change may alter
// it.
func (r *rig) create(pod string, attempt uint32, change func(*runtimeapi.CreateContainerRequest)) string {
	r.t.Helper()
	r.podLog(pod, "")
	req := &runtimeapi.CreateContainerRequest{
		PodSandboxId: "uid-" + pod,
		Config: &runtimeapi.ContainerConfig{
			Metadata: &runtimeapi.ContainerMetadata{Name: "vm", Attempt: attempt},
			LogPath:  "vm/" + itoa(attempt) + ".log",
		},
		SandboxConfig: r.sandboxConfig(pod),
	}
	if change != nil {
		change(req)
	}
	resp, err := r.client.CreateContainer(r.t.Context(), req)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp.ContainerId
}

func (r *rig) startContainer(id string) {
	r.t.Helper()
	if _, err := r.client.StartContainer(r.t.Context(), &runtimeapi.StartContainerRequest{ContainerId: id}); err != nil {
		r.t.Fatal(err)
	}
}

// oneContainer makes the fake runtime a runtime with one container, which it
// gives the same ID at every attempt.
func oneContainer(b *proxytest.Backend, id string) {
	b.Handle("CreateContainer", proxytest.Typed(func(context.Context, *runtimeapi.CreateContainerRequest) (*runtimeapi.CreateContainerResponse, error) {
		return &runtimeapi.CreateContainerResponse{ContainerId: id}, nil
	}))
	b.Handle("ListContainers", proxytest.Typed(func(context.Context, *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
		return &runtimeapi.ListContainersResponse{Containers: []*runtimeapi.Container{{Id: id}}}, nil
	}))
}

// contents are the contents of the records of a CRI log, in order.
func contents(t *testing.T, path string) []string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for line := range strings.Lines(string(b)) {
		list = append(list, strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4)[3])
	}
	return list
}

// eventually waits for a condition that no call waits for.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(20 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("waited in vain for this: %s", what)
		}
	}
}

func itoa(n uint32) string { return strconv.FormatUint(uint64(n), 10) }
