package vmruntime

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-logproxy/cri-logproxy/e2e/guest"
	"github.com/cri-logproxy/cri-logproxy/e2e/libvirtd"
)

// TestVersions asks for each version of CRI at servers of the other and of
// both.
func TestVersions(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		serve []API
		ask   API
		want  codes.Code
	}{
		{[]API{V1}, V1, codes.OK},
		{[]API{V1}, V1alpha2, codes.Unimplemented},
		{[]API{V1alpha2}, V1, codes.Unimplemented},
		{[]API{V1alpha2}, V1alpha2, codes.OK},
		{nil, V1, codes.OK},
		{nil, V1alpha2, codes.OK},
	} {
		r := newRig(t, "pty", c.ask, func(o *Options) { o.APIs = c.serve })
		v, err := r.Version(r.ctx, &cri.VersionRequest{})
		if status.Code(err) != c.want {
			t.Errorf("%v asked for %s: %v, want %v", c.serve, c.ask, err, c.want)
		}
		if err == nil && (v.RuntimeName != "virtlet" || v.RuntimeVersion != "0.1.0" || v.Version != "0.1.0" || v.RuntimeApiVersion != "0.1.0") {
			t.Errorf("version %v", v)
		}
		_, err = r.ImageFsInfo(r.ctx, &cri.ImageFsInfoRequest{})
		if status.Code(err) != c.want {
			t.Errorf("images of %v asked for %s: %v, want %v", c.serve, c.ask, err, c.want)
		}
		if _, err := r.RuntimeConfig(r.ctx, &cri.RuntimeConfigRequest{}); status.Code(err) != codes.Unimplemented {
			t.Errorf("RuntimeConfig: %v", err)
		}
	}
}

// TestRefusals checks that what is not there is refused in Virtlet's way.
func TestRefusals(t *testing.T) {
	t.Parallel()
	r := newRig(t, "pty", V1, nil)
	r.runPod()
	for name, c := range map[string]struct {
		call func() error
		code codes.Code
		text string
	}{
		"container": {func() error {
			_, err := r.ContainerStatus(r.ctx, &cri.ContainerStatusRequest{ContainerId: "no"})
			return err
		}, codes.Unknown, "domain not found"},
		"stop": {func() error {
			_, err := r.StopContainer(r.ctx, &cri.StopContainerRequest{ContainerId: "no"})
			return err
		}, codes.Unknown, "domain not found"},
		"sandbox": {func() error {
			_, err := r.PodSandboxStatus(r.ctx, &cri.PodSandboxStatusRequest{PodSandboxId: "no"})
			return err
		}, codes.Unknown, `pod sandbox "no" does not exist`},
		"exec": {func() error {
			_, err := r.ExecSync(r.ctx, &cri.ExecSyncRequest{ContainerId: "no"})
			return err
		}, codes.Unknown, "not implemented"},
		"list of stats": {func() error {
			_, err := r.ListContainerStats(r.ctx, &cri.ListContainerStatsRequest{})
			return err
		}, codes.Unknown, "ListContainerStats() not implemented"},
		"stop sandbox": {func() error {
			_, err := r.StopPodSandbox(r.ctx, &cri.StopPodSandboxRequest{PodSandboxId: "no"})
			return err
		}, codes.Unknown, `sandbox "no" not found in Virtlet metadata store`},
		"sandbox outside": {func() error {
			_, err := r.RunPodSandbox(r.ctx, &cri.RunPodSandboxRequest{Config: &cri.PodSandboxConfig{
				Metadata: &cri.PodSandboxMetadata{Uid: "../up"}}})
			return err
		}, codes.Unknown, "cannot be a sandbox ID"},
		"attach": {func() error {
			_, err := r.Attach(r.ctx, &cri.AttachRequest{})
			return err
		}, codes.Unimplemented, ""},
	} {
		if err := c.call(); status.Code(err) != c.code || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v, want code %v and %q", name, err, c.code, c.text)
		}
	}
	for name, call := range map[string]func() error{
		"reopen": func() error {
			_, err := r.ReopenContainerLog(r.ctx, &cri.ReopenContainerLogRequest{ContainerId: "no"})
			return err
		},
		"remove": func() error {
			_, err := r.RemoveContainer(r.ctx, &cri.RemoveContainerRequest{ContainerId: "no"})
			return err
		},
	} {
		if err := call(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestLists asks with every kind of filter.
func TestLists(t *testing.T) {
	t.Parallel()
	r := newEra(t, "pty", Era15, nil)
	r.runPod()
	created, err := r.CreateContainer(r.ctx, r.createRequest(3, guest.Boot{}))
	r.must(err)
	id := created.ContainerId
	in := func(s cri.ContainerState) *cri.ContainerStateValue { return &cri.ContainerStateValue{State: s} }
	for _, c := range []struct {
		filter *cri.ContainerFilter
		want   int
	}{
		{nil, 1},
		{&cri.ContainerFilter{Id: id, PodSandboxId: r.uid()}, 1},
		{&cri.ContainerFilter{Id: "no"}, 0},
		{&cri.ContainerFilter{PodSandboxId: "no"}, 0},
		{&cri.ContainerFilter{State: in(cri.ContainerState_CONTAINER_CREATED)}, 1},
		{&cri.ContainerFilter{State: in(cri.ContainerState_CONTAINER_RUNNING)}, 0},
		{&cri.ContainerFilter{LabelSelector: map[string]string{labelContainerName: "vm"}}, 1},
		{&cri.ContainerFilter{LabelSelector: map[string]string{labelContainerName: ""}}, 0},
	} {
		resp, err := r.ListContainers(r.ctx, &cri.ListContainersRequest{Filter: c.filter})
		r.must(err)
		if len(resp.Containers) != c.want {
			t.Errorf("%v: %d containers, want %d", c.filter, len(resp.Containers), c.want)
		}
	}
	state := func(s cri.PodSandboxState) *cri.PodSandboxStateValue { return &cri.PodSandboxStateValue{State: s} }
	_, err = r.StopPodSandbox(r.ctx, &cri.StopPodSandboxRequest{PodSandboxId: r.uid()})
	r.must(err)
	for _, c := range []struct {
		filter *cri.PodSandboxFilter
		want   int
	}{
		{nil, 1},
		{&cri.PodSandboxFilter{Id: r.uid()}, 1},
		{&cri.PodSandboxFilter{Id: "no"}, 0},
		{&cri.PodSandboxFilter{State: state(cri.PodSandboxState_SANDBOX_NOTREADY)}, 1},
		{&cri.PodSandboxFilter{State: state(cri.PodSandboxState_SANDBOX_READY)}, 0},
		{&cri.PodSandboxFilter{LabelSelector: map[string]string{"app": "test"}}, 1},
		{&cri.PodSandboxFilter{LabelSelector: map[string]string{"app": "other"}}, 0},
	} {
		resp, err := r.ListPodSandbox(r.ctx, &cri.ListPodSandboxRequest{Filter: c.filter})
		r.must(err)
		if len(resp.Items) != c.want {
			t.Errorf("%v: %d sandboxes, want %d", c.filter, len(resp.Items), c.want)
		}
	}
	// One virtual machine that is off spoils the statistics of all.
	_, err = r.ListContainerStats(r.ctx, &cri.ListContainerStatsRequest{})
	if err == nil || !strings.Contains(err.Error(), "domain is not running") {
		t.Errorf("ListContainerStats: %v", err)
	}
}

// TestLibvirtRestart has libvirtd crash between two calls.
func TestLibvirtRestart(t *testing.T) {
	t.Parallel()
	lv, err := libvirtd.Start(t.Context(), libvirtd.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lv.Stop(); err != nil {
			t.Error(err)
		}
	})
	r := newRig(t, "pty", V1, func(o *Options) { o.Libvirt = lv.Socket })
	r.runPod()
	created, err := r.CreateContainer(r.ctx, r.createRequest(0, guest.Boot{}))
	r.must(err)
	r.wantState(created.ContainerId, cri.ContainerState_CONTAINER_CREATED)
	r.must(lv.RestartLibvirtd(r.ctx))
	r.wantState(created.ContainerId, cri.ContainerState_CONTAINER_CREATED)
}

func TestImages(t *testing.T) {
	t.Parallel()
	r := newRig(t, "pty", V1, nil)
	image := &cri.ImageSpec{Image: "example.com:5000/vm:latest"}
	before, err := r.ImageStatus(r.ctx, &cri.ImageStatusRequest{Image: image})
	if err != nil || before.Image != nil {
		t.Errorf("image before the pull: %v, %v", before, err)
	}
	pulled, err := r.PullImage(r.ctx, &cri.PullImageRequest{Image: image})
	r.must(err)
	r.restartRuntime()
	for _, ref := range []string{image.Image, "example.com:5000/vm", pulled.ImageRef} {
		got, err := r.ImageStatus(r.ctx, &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: ref}})
		if err != nil || got.GetImage().GetId() != pulled.ImageRef {
			t.Errorf("image %s: %v, %v", ref, got, err)
		}
	}
	usage, err := r.ImageFsInfo(r.ctx, &cri.ImageFsInfoRequest{})
	if err != nil || len(usage.ImageFilesystems) != 1 || usage.ImageFilesystems[0].UsedBytes.Value == 0 {
		t.Errorf("ImageFsInfo: %v, %v", usage, err)
	}
	_, err = r.RemoveImage(r.ctx, &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: pulled.ImageRef}})
	r.must(err)
	list, err := r.ListImages(r.ctx, &cri.ListImagesRequest{})
	if err != nil || len(list.Images) != 0 {
		t.Errorf("images after the removal: %v, %v", list, err)
	}
}

func TestOptionsThatCannotWork(t *testing.T) {
	ok := Options{
		Listen: "/a", Libvirt: "/b", StateDir: "/c", LogLocation: "pty",
		Guest: guest.Guest{Kernel: "/k", Initrd: "/i"},
	}
	if _, err := ok.withDefaults(); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*Options){
		"Listen":      func(o *Options) { o.Listen = "" },
		"LogLocation": func(o *Options) { o.LogLocation = "vms" },
		"Era":         func(o *Options) { o.Era = "2.0" },
		"APIs":        func(o *Options) { o.APIs = []API{"runtime.v2"} },
	} {
		o := ok
		change(&o)
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
