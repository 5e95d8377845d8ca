package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-logproxy/cri-logproxy/e2e/await"
	"github.com/cri-logproxy/cri-logproxy/e2e/guest"
	"github.com/cri-logproxy/cri-logproxy/e2e/node"
	"github.com/cri-logproxy/cri-logproxy/e2e/pod"
	"github.com/cri-logproxy/cri-logproxy/e2e/vmruntime"
)

// repair is one of the proxy's, as kubelet would miss it.
type repair struct {
	name   string
	eras   []vmruntime.Era // that need it
	mended func(*rig) error
}

// later are the eras from CRI v1alpha2 on.
var later = []vmruntime.Era{vmruntime.Era10, vmruntime.Era15}

var repairs = []repair{
	{"log-path", []vmruntime.Era{vmruntime.Era082, vmruntime.Era10}, func(r *rig) error {
		if err := r.create0(); err != nil {
			return err
		}
		r.KillProxy()
		if err := errors.Join(os.RemoveAll(r.StateDir), r.StartProxy(r.ctx)); err != nil {
			return err
		}
		st, err := r.status(r.ID)
		return errors.Join(err, want(st.GetLogPath(), r.Config.LogDirectory+"/vm/0.log"))
	}},
	{"finished-at", vmruntime.Eras, func(r *rig) error {
		if err := inTurn(r.create0, r.start, r.powerOff); err != nil {
			return err
		}
		first, err := r.status(r.ID)
		if err != nil {
			return err
		}
		if err := errors.Join(r.StopProxy(), r.StartProxy(r.ctx)); err != nil {
			return err
		}
		again, err := r.status(r.ID)
		if first.FinishedAt < first.StartedAt || first.Reason != "Completed" {
			err = errors.Join(err, fmt.Errorf("the status is %v", first))
		}
		return errors.Join(err, want(again.GetFinishedAt(), first.FinishedAt))
	}},
	{"attempts", vmruntime.Eras, func(r *rig) error {
		if err := inTurn(r.create0, r.start, r.powerOff); err != nil {
			return err
		}
		first := r.ID
		if err := inTurn(r.create1, r.start); err != nil {
			return err
		}
		old, err := r.status(first)
		now, nowErr := r.status(r.ID)
		if err := errors.Join(err, nowErr); err != nil {
			return err
		}
		list, err := r.CRI.ListContainers(r.ctx, &cri.ContainerFilter{PodSandboxId: r.Sandbox})
		return errors.Join(err, want(len(list), 2),
			want(describe(old), describe(&cri.ContainerStatus{
				Id: first, Metadata: &cri.ContainerMetadata{}, State: cri.ContainerState_CONTAINER_EXITED, LogPath: "0.log",
			})),
			want(describe(now), describe(&cri.ContainerStatus{
				Id: first + "-1", Metadata: &cri.ContainerMetadata{Attempt: 1}, State: cri.ContainerState_CONTAINER_RUNNING, LogPath: "1.log",
			})))
	}},
	{"stopped-disk", later, func(r *rig) error {
		return inTurn(r.create0, r.start, r.stop, r.create1, r.start)
	}},
	{"namespaces", later, func(r *rig) error {
		st, err := r.CRI.PodSandboxStatus(r.ctx, r.Sandbox, false)
		return errors.Join(err, want(st.GetStatus().GetLinux().GetNamespaces().GetOptions().GetNetwork(), cri.NamespaceMode_NODE))
	}},
	{"stats", vmruntime.Eras, func(r *rig) error {
		if err := inTurn(r.create0, r.start); err != nil {
			return err
		}
		if err := r.addPod("off").create0(); err != nil {
			return err
		}
		list, err := r.CRI.ListContainerStats(r.ctx, nil)
		if err != nil {
			return err
		}
		for _, stats := range list {
			if a := stats.Attributes; a.Id == r.ID {
				return errors.Join(want(a.Metadata.Name, pod.ContainerName), want(a.Labels["io.kubernetes.pod.name"], r.Pod.Name))
			}
		}
		return want(len(list), 0)
	}},
	{"image-fs", []vmruntime.Era{vmruntime.Era082, vmruntime.Era10}, func(r *rig) error {
		client, err := vmruntime.Dial(r.Socket, vmruntime.V1)
		if err != nil {
			return err
		}
		defer client.Close()
		resp, err := client.ImageFsInfo(r.ctx, &cri.ImageFsInfoRequest{})
		if err != nil {
			return err
		}
		usage := resp.ImageFilesystems[0]
		info, err := os.Stat(usage.FsId.Mountpoint)
		if err == nil && (!info.IsDir() || usage.Timestamp == 0 || usage.UsedBytes == nil) {
			err = fmt.Errorf("usage %v", usage)
		}
		return err
	}},
	{"error-codes", vmruntime.Eras, func(r *rig) error {
		_, gone := r.status("no")
		_, exec := r.CRI.Exec(r.ctx, &cri.ExecRequest{ContainerId: "no", Cmd: []string{"true"}, Stdout: true})
		return errors.Join(want(status.Code(gone), codes.NotFound), want(status.Code(exec), codes.Unimplemented))
	}},
	{"lost-domain", later, func(r *rig) error {
		if err := r.create0(); err != nil {
			return err
		}
		if _, err := r.Libvirt.Virsh(r.ctx, "undefine", r.ID); err != nil {
			return err
		}
		return inTurn(r.create1, r.start)
	}},
}

// TestRepairs has each era of Virtlet mended, and shows that without the repair
// something is broken.
func TestRepairs(t *testing.T) {
	for _, era := range vmruntime.Eras {
		t.Run(string(era), func(t *testing.T) {
			r := newNode(t, node.Options{Era: era})
			for _, repair := range repairs {
				if err := r.isMended(repair, repair.name); err != nil {
					t.Errorf("%s: %v", repair.name, err)
				}
			}
			for _, repair := range repairs {
				if !slices.Contains(repair.eras, era) {
					continue
				}
				r.must(r.RestartProxy(r.ctx, "--personality=auto,-"+repair.name))
				err := r.isMended(repair, "without-"+repair.name)
				t.Logf("without %s: %v", repair.name, err)
				if err == nil {
					t.Errorf("it is as well without %s", repair.name)
				}
			}
		})
	}
}

// isMended tries a repair on a pod of its own.
func (r *rig) isMended(repair repair, podName string) error {
	vm := r.hostPod(podName)
	err := repair.mended(vm)
	_ = vm.powerOff() // it may be off; if not, nobody needs its boot
	return err
}

// hostPod runs the sandbox of a pod in the host's network.
func (r *rig) hostPod(name string) *rig {
	r.t.Helper()
	vm := *r
	var err error
	vm.Pod, err = pod.New(r.ctx, r.Socket, r.PodLogs, name)
	r.must(err)
	r.t.Cleanup(func() { vm.CRI.Close(r.ctx) })
	vm.Config.Linux.SecurityContext = &cri.LinuxSandboxSecurityContext{NamespaceOptions: &cri.NamespaceOption{Network: cri.NamespaceMode_NODE}}
	r.must(vm.Pod.Run(r.ctx))
	return &vm
}

// inTurn does what is to be done up to the first error.
func inTurn(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func (r *rig) create0() error { return r.Create(r.ctx, 0, guest.Boot{}.Args()) }
func (r *rig) create1() error { return r.Create(r.ctx, 1, guest.Boot{}.Args()) }
func (r *rig) stop() error    { return r.Pod.Stop(r.ctx, 0) }

// start starts the VM, which need not have a log.
func (r *rig) start() error { return r.CRI.StartContainer(r.ctx, r.ID) }

// powerOff ends the VM behind everybody's back.
func (r *rig) powerOff() error {
	_, err := r.Libvirt.Virsh(r.ctx, "destroy", vmruntime.ContainerID(r.Sandbox))
	return err
}

func (r *rig) status(id string) (*cri.ContainerStatus, error) {
	resp, err := r.CRI.ContainerStatus(r.ctx, id, false)
	return resp.GetStatus(), err
}

// describe is what tells the attempts of a container from each other.
func describe(st *cri.ContainerStatus) string {
	return fmt.Sprint(st.Id, st.Metadata.Attempt, st.State, filepath.Base(st.LogPath))
}

func want(got, want any) error {
	if got != want {
		return fmt.Errorf("got %v, want %v", got, want)
	}
	return nil
}

// TestReplacedRuntime has Virtlet upgraded under a proxy and a VM that go on.
func TestReplacedRuntime(t *testing.T) {
	r := newRig(t, node.Options{Era: vmruntime.Era082})
	b := guest.Boot{Marker: "upgraded", Lines: 3}
	r.boot(0, b)
	f := r.follow()
	r.wait(f, b.ReadyLine()+"\n")
	for _, era := range []vmruntime.Era{vmruntime.Era10, vmruntime.Era15, vmruntime.Era082, ""} {
		r.must(r.ReplaceRuntime(era))
		var st *cri.ContainerStatus
		r.must(await.Condition(r.ctx, "calls work again", func() (_ bool, err error) {
			st, err = r.status(r.ID)
			if status.Code(err) == codes.Unavailable {
				return false, nil
			}
			return err == nil, err
		}))
		if st.State != cri.ContainerState_CONTAINER_RUNNING || st.LogPath != r.Config.LogDirectory+"/vm/0.log" {
			t.Errorf("with era %q: %v", era, st)
		}
	}
	r.must(r.Pod.Stop(r.ctx, 0))
	r.must(<-f.done)
	r.must(r.Pod.Remove(r.ctx))
}
