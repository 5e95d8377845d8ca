package vmruntime

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-logproxy/cri-logproxy/e2e/await"
	"github.com/cri-logproxy/cri-logproxy/e2e/guest"
	"github.com/cri-logproxy/cri-logproxy/e2e/libvirtd"
)

// patience bounds each test: a boot takes three seconds on an idle machine and
// fifteen on a busy one.
const patience = 2 * time.Minute

// shared is the libvirt that all tests of this package use. The pods have
// different UIDs, so they do not meet.
var shared = sync.OnceValues(func() (*libvirtd.Instance, error) {
	in, err := libvirtd.Start(context.Background(), libvirtd.Options{})
	stopShared = in
	return in, err
})

var stopShared *libvirtd.Instance // nil if no test has asked for it

// sharedGuest is what they boot.
var sharedGuest = sync.OnceValues(func() (guest.Guest, error) {
	return guest.Files(context.Background(), guestDir)
})

var guestDir string

func TestMain(m *testing.M) {
	var err error
	if guestDir, err = os.MkdirTemp("/tmp", "vmg"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(guestDir)
	if stopShared != nil {
		if err := stopShared.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// rig is a runtime in a directory of its own, and a pod to run there.
type rig struct {
	*testing.T
	*Client
	ctx context.Context
	lv  *libvirtd.Instance
	o   Options
	api API // that the Client speaks
	rt  *Runtime
	pod *cri.PodSandboxConfig
	ran bool // the pod was run
}

// newEra starts a runtime of an era, and speaks its API.
func newEra(t *testing.T, mode string, era Era, change func(*Options)) *rig {
	t.Helper()
	return newRig(t, mode, behaviours[era].apis[0], func(o *Options) {
		o.Era = era
		if change != nil {
			change(o)
		}
	})
}

// newRig starts a runtime. mode is Options.LogLocation, where "file" is a
// directory of the rig's own.
func newRig(t *testing.T, mode string, api API, change func(*Options)) *rig {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	lv, err := shared()
	if err != nil {
		t.Fatal(err) // says what to install
	}
	dir, err := os.MkdirTemp("/tmp", "vmr") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	g, err := sharedGuest()
	if err != nil {
		t.Fatal(err) // says what to install
	}
	if mode == "file" {
		mode = filepath.Join(dir, "vms")
	}
	r := &rig{T: t, ctx: ctx, lv: lv, api: api, o: Options{
		Listen:      filepath.Join(dir, "cri.sock"),
		APIs:        []API{api},
		Libvirt:     lv.Socket,
		LogLocation: mode,
		Guest:       g,
		StateDir:    filepath.Join(dir, "state"),
	}}
	if change != nil {
		change(&r.o)
	}
	r.pod = &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: "pod", Namespace: "default", Uid: filepath.Base(dir)},
		Labels:       map[string]string{"app": "test"},
		LogDirectory: "/nowhere/pods/of/kubelet",
	}
	r.startRuntime()
	t.Cleanup(r.close)
	return r
}

// startRuntime starts a runtime with the rig's options and connects to it.
func (r *rig) startRuntime() {
	r.Helper()
	var err error
	r.rt, err = New(r.o)
	r.must(err)
	r.must(r.rt.Start())
	r.Client, err = Dial(r.o.Listen, r.api)
	r.must(err)
}

// restartRuntime starts a new runtime in the place of the old one.
func (r *rig) restartRuntime() {
	r.Helper()
	r.must(errors.Join(r.Client.Close(), r.rt.Close()))
	r.startRuntime()
}

// close leaves no virtual machine behind, also when the test has failed.
func (r *rig) close() {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var err error
	if r.ran {
		_, err = r.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: r.uid()})
	}
	if err := errors.Join(err, r.Client.Close(), r.rt.Close()); err != nil {
		r.Error(err)
	}
}

func (r *rig) must(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

// uid is the pod's UID and so the sandbox's ID.
func (r *rig) uid() string { return r.pod.Metadata.Uid }

func (r *rig) runPod() {
	r.Helper()
	resp, err := r.RunPodSandbox(r.ctx, &cri.RunPodSandboxRequest{Config: r.pod})
	r.must(err)
	r.ran = true
	if resp.PodSandboxId != r.uid() {
		r.Fatalf("sandbox ID %q, want the pod's UID %q", resp.PodSandboxId, r.uid())
	}
}

// createRequest asks for a container that boots so.
func (r *rig) createRequest(attempt uint32, boot guest.Boot) *cri.CreateContainerRequest {
	return &cri.CreateContainerRequest{
		PodSandboxId:  r.uid(),
		SandboxConfig: r.pod,
		Config: &cri.ContainerConfig{
			Metadata:    &cri.ContainerMetadata{Name: "vm", Attempt: attempt},
			Image:       &cri.ImageSpec{Image: "example.com/vm"},
			Args:        boot.Args(),
			Annotations: map[string]string{"attempt": fmt.Sprint(attempt)},
			LogPath:     fmt.Sprintf("vm/%d.log", attempt),
		},
	}
}

// create creates the pod's container.
func (r *rig) create(attempt uint32, boot guest.Boot) string {
	r.Helper()
	created, err := r.CreateContainer(r.ctx, r.createRequest(attempt, boot))
	r.must(err)
	return created.ContainerId
}

// startVM creates and starts the pod's container.
func (r *rig) startVM(attempt uint32, boot guest.Boot) string {
	r.Helper()
	id := r.create(attempt, boot)
	_, err := r.StartContainer(r.ctx, &cri.StartContainerRequest{ContainerId: id})
	r.must(err)
	return id
}

func (r *rig) status(id string) *cri.ContainerStatus {
	r.Helper()
	resp, err := r.ContainerStatus(r.ctx, &cri.ContainerStatusRequest{ContainerId: id})
	r.must(err)
	return resp.Status
}

func (r *rig) wantState(id string, want cri.ContainerState) {
	r.Helper()
	if got := r.status(id).State; got != want {
		r.Errorf("state %v, want %v", got, want)
	}
}

func (r *rig) awaitState(id string, want cri.ContainerState) {
	r.Helper()
	r.must(await.Condition(r.ctx, want.String(), func() (bool, error) {
		return r.status(id).State == want, nil
	}))
}

// rawLog is where this process sees an attempt's raw log.
func (r *rig) rawLog(attempt uint32) string {
	return RawLog(cmp.Or(r.o.LogDir, r.o.LogLocation), r.uid(), attempt)
}

// wantConsole compares a raw log with what the guest must have sent: just that,
// or that and then after.
func (r *rig) wantConsole(raw []byte, boot guest.Boot, after string) {
	r.Helper()
	want := append(boot.Console(), after...)
	if bytes.Equal(raw, want) {
		return
	}
	i := 0
	for i < len(raw) && i < len(want) && raw[i] == want[i] {
		i++
	}
	r.Errorf("raw log of %d bytes, want %d; they differ from byte %d on:\n got %q\nwant %q",
		len(raw), len(want), i, piece(raw, i), piece(want, i))
}

func piece(b []byte, i int) []byte {
	return b[max(0, i-20):min(len(b), i+80)]
}
