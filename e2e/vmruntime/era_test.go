package vmruntime

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-logproxy/cri-logproxy/e2e/await"
	"github.com/cri-logproxy/cri-logproxy/e2e/guest"
)

// eras runs a test for each era.
func eras(t *testing.T, test func(t *testing.T, era Era)) {
	for _, era := range Eras {
		t.Run(string(era), func(t *testing.T) {
			t.Parallel()
			test(t, era)
		})
	}
}

// wantError checks that an error is a plain one, as all of Virtlet's are.
func (r *rig) wantError(what string, err error, text string) {
	r.Helper()
	if status.Code(err) != codes.Unknown || status.Convert(err).Message() != text {
		r.Errorf("%s: %v, want code Unknown and %q", what, err, text)
	}
}

// TestEraAPI asks each era under each version's name.
func TestEraAPI(t *testing.T) {
	eras(t, func(t *testing.T, era Era) {
		r := newEra(t, "pty", era, nil)
		for _, api := range []API{V1, V1alpha2, V1alpha1} {
			client, err := Dial(r.o.Listen, api)
			r.must(err)
			_, err = client.Version(r.ctx, &cri.VersionRequest{})
			want := codes.Unimplemented
			if api == r.api {
				want = codes.OK
			}
			if status.Code(err) != want {
				t.Errorf("Version of %s: %v, want %v", api, err, want)
			}
			r.must(client.Close())
		}
		_, err := r.RuntimeConfig(r.ctx, &cri.RuntimeConfigRequest{})
		want := "unknown method RuntimeConfig for service " + string(r.api) + ".RuntimeService"
		if status.Code(err) != codes.Unimplemented || status.Convert(err).Message() != want {
			t.Errorf("RuntimeConfig: %v, want %q", err, want)
		}
		reopen := codes.OK
		if era == Era082 {
			reopen = codes.Unimplemented
		}
		if _, err := r.ReopenContainerLog(r.ctx, &cri.ReopenContainerLogRequest{}); status.Code(err) != reopen {
			t.Errorf("ReopenContainerLog: %v, want %v", err, reopen)
		}
	})
}

// TestEraNamespaces asks for the host's network: by v1alpha1's bool that is 1.
func TestEraNamespaces(t *testing.T) {
	eras(t, func(t *testing.T, era Era) {
		r := newEra(t, "pty", era, nil)
		hostNetwork := &cri.NamespaceOption{Network: cri.NamespaceMode_NODE}
		want := &cri.NamespaceOption{}
		if era == Era082 {
			hostNetwork.Network = 1
			want.Network = 1
		}
		r.pod.Linux = &cri.LinuxPodSandboxConfig{SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: hostNetwork}}
		r.runPod()
		st, err := r.PodSandboxStatus(r.ctx, &cri.PodSandboxStatusRequest{PodSandboxId: r.uid()})
		r.must(err)
		if got := st.Status.GetLinux().GetNamespaces().GetOptions(); !proto.Equal(got, want) {
			t.Errorf("namespaces %v, want %v", got, want)
		}
	})
}

// TestEraLogPath reads the log path of a container that has not run.
func TestEraLogPath(t *testing.T) {
	eras(t, func(t *testing.T, era Era) {
		r := newEra(t, "pty", era, nil)
		r.runPod()
		want := map[Era]string{Era082: "", Era10: "vm/3.log", Era15: r.pod.LogDirectory + "/vm/3.log"}[era]
		if got := r.status(r.create(3, guest.Boot{})).LogPath; got != want {
			t.Errorf("log path %q, want %q", got, want)
		}
	})
}

// TestEraStats asks for statistics and for the images' file system.
func TestEraStats(t *testing.T) {
	eras(t, func(t *testing.T, era Era) {
		r := newEra(t, "pty", era, nil)
		r.runPod()
		id := r.create(0, guest.Boot{})
		_, list := r.ListContainerStats(r.ctx, &cri.ListContainerStatsRequest{})
		_, one := r.ContainerStats(r.ctx, &cri.ContainerStatsRequest{ContainerId: id})
		_, images := r.ImageFsInfo(r.ctx, &cri.ImageFsInfoRequest{})
		if era != Era15 {
			r.wantError("ListContainerStats", list, "ListContainerStats() not implemented")
			r.wantError("ContainerStats", one, "ContainerStats() not implemented")
			r.wantError("ImageFsInfo", images, "ImageFsInfo() not implemented")
			return
		}
		r.must(images)
		r.wantError("ListContainerStats", list, errNotRunning.Error())
		_, err := r.StartContainer(r.ctx, &cri.StartContainerRequest{ContainerId: id})
		r.must(err)
		resp, err := r.ListContainerStats(r.ctx, &cri.ListContainerStatsRequest{})
		r.must(err)
		if a := resp.Stats[0].Attributes; a.Id != id || a.Metadata.Name != id || len(a.Labels) > 0 {
			t.Errorf("attributes %v, want the ID for a name, and no labels", a)
		}
	})
}

// TestEraLostDomain takes away the domain of a container that the runtime
// remembers, as a new pod of Virtlet's with an old database finds it.
func TestEraLostDomain(t *testing.T) {
	eras(t, func(t *testing.T, era Era) {
		r := newEra(t, "pty", era, nil)
		r.runPod()
		id := r.create(0, guest.Boot{})
		_, err := r.lv.Virsh(r.ctx, "undefine", id)
		r.must(err)
		_, err = r.ContainerStatus(r.ctx, &cri.ContainerStatusRequest{ContainerId: id})
		r.wantError("ContainerStatus", err, "domain not found")
		if era != Era082 { // which makes a new one
			for range 2 {
				_, err = r.CreateContainer(r.ctx, r.createRequest(1, guest.Boot{}))
				r.wantError("CreateContainer", err, `error updating disk images: failed to look up domain "`+id+`": domain not found`)
			}
			_, err = r.RemoveContainer(r.ctx, &cri.RemoveContainerRequest{ContainerId: id})
			r.must(err)
		}
		r.create(1, guest.Boot{})
		r.wantState(id, cri.ContainerState_CONTAINER_CREATED)
	})
}

// TestEraLostDisk starts a container once more that was stopped: the start fails
// and has emptied the raw log by then. libvirtd sees the logs in another place
// than this process does, as it is in Virtlet's own pod.
func TestEraLostDisk(t *testing.T) {
	lv, err := shared()
	if err != nil {
		t.Fatal(err)
	}
	eras(t, func(t *testing.T, era Era) {
		r := newEra(t, "/var/log/vms", era, func(o *Options) { o.LogDir = filepath.Join(lv.Dir, o.LogLocation) })
		r.runPod()
		boot := guest.Boot{Marker: "disk", Tick: 100 * time.Millisecond}
		id := r.startVM(0, boot)
		_, err = await.FileContains(r.ctx, r.rawLog(0), []byte(boot.TickLine(3)+"\r\n"))
		r.must(err)
		_, err = r.StopContainer(r.ctx, &cri.StopContainerRequest{ContainerId: id})
		r.must(err)
		start := func() error {
			_, err := r.StartContainer(r.ctx, &cri.StartContainerRequest{ContainerId: id})
			return err
		}
		lost := func(err error) {
			t.Helper()
			if status.Code(err) != codes.Unknown || !strings.Contains(err.Error(), "Cannot access storage file") {
				t.Errorf("start without a disk: %v", err)
			}
		}
		lost(start())
		raw, err := os.ReadFile(r.rawLog(0))
		if err != nil || len(raw) != 0 {
			t.Errorf("raw log after the failed start: %q, %v", raw, err)
		}
		if era != Era082 { // which makes a new domain, and so a new disk
			r.create(1, boot)
			lost(start())
			_, err = r.RemoveContainer(r.ctx, &cri.RemoveContainerRequest{ContainerId: id})
			r.must(err)
		}
		r.create(1, boot)
		r.must(start())
	})
}

// TestEraForeignLogs has somebody else log a pty: the runtime leaves the logs.
func TestEraForeignLogs(t *testing.T) {
	eras(t, func(t *testing.T, era Era) {
		r := newEra(t, "pty", era, func(o *Options) { o.LogDir = o.StateDir })
		r.runPod()
		log := r.rawLog(0)
		r.must(os.Mkdir(filepath.Dir(log), 0o700))
		r.must(os.WriteFile(log, nil, 0o600))
		_, err := r.RemovePodSandbox(r.ctx, &cri.RemovePodSandboxRequest{PodSandboxId: r.uid()})
		r.must(err)
		if _, err := os.Stat(log); err != nil {
			t.Error(err)
		}
	})
}

// TestEraReplaced has another era take over what one has left, a VM that runs
// among it.
func TestEraReplaced(t *testing.T) {
	t.Parallel()
	r := newEra(t, "file", Era082, nil)
	r.runPod()
	boot := guest.Boot{Marker: "replaced", Tick: 100 * time.Millisecond}
	id := r.startVM(0, boot)
	before := r.status(id)
	r.o.Era, r.api, r.o.APIs = Era15, V1alpha2, nil
	r.restartRuntime()
	want := proto.CloneOf(before)
	want.LogPath = r.pod.LogDirectory + "/vm/0.log"
	if got := r.status(id); !proto.Equal(got, want) {
		t.Errorf("status\n %v, want\n %v", got, want)
	}
	_, err := await.FileContains(r.ctx, r.rawLog(0), []byte(boot.TickLine(1)+"\r\n"))
	r.must(err)
	if again := r.create(1, boot); again != id {
		t.Errorf("container ID %s, want %s", again, id)
	}
	r.wantState(id, cri.ContainerState_CONTAINER_RUNNING)
}
