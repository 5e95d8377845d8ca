package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-logproxy/cri-logproxy/proxy/personality"
	"github.com/cri-logproxy/cri-logproxy/proxy/proxytest"
)

// repairs are what each repair is for. The check fails where it is off.
var repairs = map[*personality.Repair]func(*rig, *fakeVirtlet) error{
	personality.LogPath: func(r *rig, v *fakeVirtlet) error {
		// A container that the proxy has not seen created, nor listed.
		v.mu.Lock()
		v.c = &runtimeapi.ContainerStatus{Id: virtletID, Metadata: &runtimeapi.ContainerMetadata{Name: "vm"}, Labels: podLabels("pod")}
		v.mu.Unlock()
		listNothing(r.backend)
		return want(r.status(virtletID).LogPath, r.podLog("pod", "0.log"))
	},
	personality.FinishedAt: func(r *rig, v *fakeVirtlet) error {
		id := r.attempt(0)
		v.powerOff()
		st := r.status(id)
		r.restart()
		if err := want(r.status(id).FinishedAt, st.FinishedAt); err != nil || st.FinishedAt == 0 || st.Reason != "Completed" {
			return fmt.Errorf("%v: %w", st, err)
		}
		v.start = errors.New("Cannot access storage file")
		id = r.create("pod", 1, nil)
		if _, err := r.client.StartContainer(r.t.Context(), &runtimeapi.StartContainerRequest{ContainerId: id}); err == nil {
			return errors.New("it has started")
		}
		st = r.status(id)
		return want([]any{st.State, st.Reason, st.ExitCode, st.FinishedAt > 0}, []any{runtimeapi.ContainerState_CONTAINER_EXITED, "StartError", int32(128), true})
	},
	personality.Attempts: func(r *rig, v *fakeVirtlet) error {
		r.attempt(0)
		v.powerOff()
		return want(r.attempt(1), virtletID+"-1")
	},
	personality.StoppedDisk: func(r *rig, v *fakeVirtlet) error {
		r.attempt(0)
		v.powerOff()
		r.attempt(1) // has its disk
		if len(v.calls) > 0 {
			return fmt.Errorf("after a power-off: %q", v.calls)
		}
		if _, err := r.client.StopContainer(r.t.Context(), &runtimeapi.StopContainerRequest{ContainerId: r.present()}); err != nil {
			return err
		}
		r.attempt(2)
		return want(v.calls, []string{"stop " + virtletID, "remove " + virtletID})
	},
	personality.Namespaces: func(r *rig, _ *fakeVirtlet) error {
		node := &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE, Pid: runtimeapi.NamespaceMode_CONTAINER}
		r.backend.Handle("RunPodSandbox", proxytest.Typed(func(context.Context, *runtimeapi.RunPodSandboxRequest) (*runtimeapi.RunPodSandboxResponse, error) {
			return &runtimeapi.RunPodSandboxResponse{PodSandboxId: "uid-pod"}, nil
		}))
		r.backend.Handle("PodSandboxStatus", proxytest.Typed(func(context.Context, *runtimeapi.PodSandboxStatusRequest) (*runtimeapi.PodSandboxStatusResponse, error) {
			return &runtimeapi.PodSandboxStatusResponse{Status: &runtimeapi.PodSandboxStatus{Id: "uid-pod"}}, nil
		}))
		config := r.sandboxConfig("pod")
		config.Linux = &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: node}}
		if _, err := r.client.RunPodSandbox(r.t.Context(), &runtimeapi.RunPodSandboxRequest{Config: config}); err != nil {
			return err
		}
		r.restart()
		resp, err := r.client.PodSandboxStatus(r.t.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: "uid-pod"})
		if err != nil {
			return err
		}
		got := resp.Status.GetLinux().GetNamespaces().GetOptions()
		return want([]any{got.GetNetwork(), got.GetPid()}, []any{node.Network, node.Pid})
	},
	personality.Stats: func(r *rig, _ *fakeVirtlet) error {
		r.backend.Handle("ListContainerStats", proxytest.Typed(func(context.Context, *runtimeapi.ListContainerStatsRequest) (*runtimeapi.ListContainerStatsResponse, error) {
			return nil, errors.New("domain is not running")
		}))
		r.backend.Handle("ContainerStats", proxytest.Typed(func(_ context.Context, req *runtimeapi.ContainerStatsRequest) (*runtimeapi.ContainerStatsResponse, error) {
			return &runtimeapi.ContainerStatsResponse{Stats: &runtimeapi.ContainerStats{Attributes: &runtimeapi.ContainerAttributes{
				Id: req.ContainerId, Metadata: &runtimeapi.ContainerMetadata{Name: req.ContainerId},
			}}}, nil
		}))
		id := r.attempt(0)
		resp, err := r.client.ListContainerStats(r.t.Context(), &runtimeapi.ListContainerStatsRequest{})
		if err != nil {
			return err
		}
		one, err := r.client.ContainerStats(r.t.Context(), &runtimeapi.ContainerStatsRequest{ContainerId: id})
		if err != nil {
			return err
		}
		for _, stats := range append(resp.Stats, one.Stats) {
			a := stats.Attributes
			if err := want([]any{a.Id, a.Metadata.GetName(), a.Labels["io.kubernetes.pod.name"]}, []any{id, "vm", "pod"}); err != nil {
				return err
			}
		}
		return want(len(resp.Stats), 1)
	},
	personality.ImageFS: func(r *rig, _ *fakeVirtlet) error {
		r.backend.Handle("ImageFsInfo", proxytest.Typed(func(context.Context, *runtimeapi.ImageFsInfoRequest) (*runtimeapi.ImageFsInfoResponse, error) {
			return nil, errors.New("ImageFsInfo() not implemented")
		}))
		conn, err := proxytest.Dial(r.socket())
		if err != nil {
			return err
		}
		defer conn.Close()
		resp, err := runtimeapi.NewImageServiceClient(conn).ImageFsInfo(r.t.Context(), &runtimeapi.ImageFsInfoRequest{})
		if err != nil {
			return err
		}
		usage := resp.ImageFilesystems[0]
		return want([]any{usage.UsedBytes.GetValue() > 0, usage.FsId.GetMountpoint() != "", usage.Timestamp > 0}, []any{true, true, true})
	},
	personality.ErrorCodes: func(r *rig, _ *fakeVirtlet) error {
		_, err := r.client.ContainerStatus(r.t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: "unheard-of"})
		r.backend.Handle("Exec", proxytest.Typed(func(context.Context, *runtimeapi.ExecRequest) (*runtimeapi.ExecResponse, error) {
			return nil, errors.New("not implemented")
		}))
		_, execErr := r.client.Exec(r.t.Context(), &runtimeapi.ExecRequest{ContainerId: "c"})
		return want([]codes.Code{status.Code(err), status.Code(execErr)}, []codes.Code{codes.NotFound, codes.Unimplemented})
	},
	personality.LostDomain: func(r *rig, v *fakeVirtlet) error {
		r.attempt(0)
		v.powerOff()
		v.create = func() error {
			if v.calls == nil {
				return errors.New("error updating disk images: failed to look up domain: domain not found")
			}
			return nil
		}
		req := &runtimeapi.CreateContainerRequest{
			PodSandboxId: "uid-pod", Config: &runtimeapi.ContainerConfig{Metadata: &runtimeapi.ContainerMetadata{Name: "vm", Attempt: 1}, LogPath: "vm/1.log"},
			SandboxConfig: r.sandboxConfig("pod"),
		}
		_, err := r.client.CreateContainer(r.t.Context(), req)
		return err
	},
}

// present is the ID of the container that is running, as kubelet lists it.
func (r *rig) present() string {
	r.t.Helper()
	resp, err := r.client.ListContainers(r.t.Context(), &runtimeapi.ListContainersRequest{
		Filter: &runtimeapi.ContainerFilter{State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING}},
	})
	if err != nil || len(resp.Containers) == 0 {
		r.t.Fatalf("no container runs: %v, %v", resp, err)
	}
	return resp.Containers[0].Id
}

func want(got, want any) error {
	if g, w := fmt.Sprint(got), fmt.Sprint(want); g != w {
		return fmt.Errorf("got %s, want %s", g, w)
	}
	return nil
}

// TestRepairs has each repair mend what it is for, and shows that without it
// something is broken.
func TestRepairs(t *testing.T) {
	for _, repair := range personality.All {
		check := repairs[repair]
		if check == nil {
			t.Errorf("repair %s has no test", repair.Name)
			continue
		}
		for _, choice := range []string{"auto", "virtlet", "auto,-" + repair.Name, "none,-log-path"} {
			t.Run(repair.Name+"/"+choice, func(t *testing.T) {
				r, v := newVirtletRig(t, choice)
				err := check(r, v)
				switch on := slices.Contains([]string{"auto", "virtlet"}, choice); {
				case on && err != nil:
					t.Error(err)
				case !on && err == nil:
					t.Error("it is as well without the repair")
				}
			})
		}
	}
}
