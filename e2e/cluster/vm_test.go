package cluster

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-logproxy/cri-logproxy/e2e/cluster/box"
	"github.com/cri-logproxy/cri-logproxy/e2e/cluster/kubelet"
	"github.com/cri-logproxy/cri-logproxy/e2e/guest"
	"github.com/cri-logproxy/cri-logproxy/e2e/internal/printed"
	"github.com/cri-logproxy/cri-logproxy/e2e/pod"
	"github.com/cri-logproxy/cri-logproxy/e2e/vmruntime"
)

// vm is a VM that kubelet runs as a static pod.
type vm struct {
	*rig
	VM
	uid  string // of the pod
	tick int    // the last that was seen in its log
}

// add has kubelet run a VM.
func (r *rig) add(v VM) *vm {
	r.t.Helper()
	r.must(r.Kubelet.AddStaticPod(v.Name, v.Manifest()))
	return &vm{rig: r, VM: v}
}

// name is kubelet's for the pod.
func (v *vm) name() string { return kubelet.StaticName(v.Name) }

// pod returns what kubelet says of the pod, zero if it has none.
func (v *vm) pod() (kubelet.Pod, error) {
	p, found, err := v.Kubelet.Pod(v.ctx, v.name())
	if found {
		v.uid = p.Metadata.UID
	}
	return p, err
}

// awaitPod waits until kubelet says what is wanted.
func (v *vm) awaitPod(what string, cond func(p kubelet.Pod) bool) (p kubelet.Pod) {
	v.t.Helper()
	v.await(v.Name+" "+what, func() (_ bool, err error) {
		p, err = v.pod()
		return err == nil && cond(p), err
	})
	return p
}

// dir is where its logs are.
func (v *vm) dir() string { return v.logDir(v.name(), v.uid) }

// files are those of an attempt's log, the oldest first.
func (v *vm) files(attempt int) []string {
	v.t.Helper()
	current := filepath.Join(v.dir(), fmt.Sprintf("%d.log", attempt))
	files, err := filepath.Glob(current + ".*")
	v.must(err)
	slices.Sort(files) // kubelet adds the time to the names
	return append(files, current)
}

// text is an attempt's log.
func (v *vm) text(attempt int) string {
	v.t.Helper()
	text, err := logText(v.files(attempt))
	v.must(err)
	return text
}

// whole is all that the VM prints up to its last known line.
func (v *vm) whole() string { return strings.Join(v.Boot.Text(), "\n") + "\n" }

// ticks checks that an attempt's log is whole, with all ticks up to some
// moment. No kubelet may run, or it rotates the log meanwhile.
func (v *vm) ticks(attempt int) {
	v.t.Helper()
	got := strings.Replace(v.text(attempt), guest.LoginPrompt, "", 1) // it comes somewhere between the first ticks
	want := v.whole()
	for i := 1; len(want) < len(got); i++ {
		want += v.Boot.TickLine(i) + "\n"
	}
	if !strings.HasPrefix(want, got) {
		v.t.Errorf("%s: %s", v.Name, printed.Diff(got, want))
	}
}

// goesOn waits until the present log of an attempt has some more ticks.
func (v *vm) goesOn(attempt int, what string) {
	v.t.Helper()
	const more = 5
	var from int
	v.await(v.Name+" logs "+what, func() (bool, error) {
		b, err := os.ReadFile(filepath.Join(v.dir(), fmt.Sprintf("%d.log", attempt)))
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil // kubelet rotates it
		}
		if i := strings.LastIndex(string(b), "LP-TICK"); i >= 0 {
			fmt.Sscanf(string(b[i:]), "LP-TICK "+v.Boot.Marker+" %d", &v.tick)
		}
		if from == 0 {
			from = v.tick
		}
		return v.tick >= from+more, err
	})
}

// logs is what `kubectl logs` shows.
func (v *vm) logs(query url.Values) (string, error) {
	log, err := v.Kubelet.Logs(v.ctx, Namespace, v.name(), pod.ContainerName, query)
	if err != nil {
		return "", err
	}
	defer log.Close()
	text, err := io.ReadAll(log)
	return string(text), err
}

// remove has kubelet delete the pod.
func (v *vm) remove() {
	v.t.Helper()
	v.must(v.Kubelet.RemoveStaticPod(v.Name))
	v.awaitPod("is deleted", func(p kubelet.Pod) bool { return p.Metadata.Name == "" })
}

// leavesNoLog waits until kubelet has deleted the logs of a VM that was running
// when its pod was deleted, and the links to them.
func (v *vm) leavesNoLog() {
	v.t.Helper()
	links := filepath.Join(v.Box.Path(box.ContainerLogs), v.name()+"_*")
	v.await(v.Name+" leaves no log", func() (bool, error) {
		var left []string
		for _, pattern := range []string{filepath.Join(v.dir(), "*"), links} {
			found, err := filepath.Glob(pattern)
			if err != nil {
				return false, err
			}
			left = append(left, found...)
		}
		return len(left) == 0, nil
	})
}

// collectGarbage waits until kubelet has stopped all that is deleted, removes
// what is left of it, as kubelet does once a minute, and checks that nothing is
// left then.
func (r *rig) collectGarbage() {
	r.t.Helper()
	client, err := vmruntime.Dial(r.Node.Socket, vmruntime.V1)
	r.must(err)
	defer client.Close()
	var sandboxes *cri.ListPodSandboxResponse
	r.await("all is stopped", func() (bool, error) {
		if sandboxes, err = client.ListPodSandbox(r.ctx, &cri.ListPodSandboxRequest{}); err != nil {
			return false, err
		}
		return !slices.ContainsFunc(sandboxes.Items, func(s *cri.PodSandbox) bool {
			return s.State == cri.PodSandboxState_SANDBOX_READY
		}), nil
	})
	r.Kubelet.Kill()
	containers, err := client.ListContainers(r.ctx, &cri.ListContainersRequest{})
	r.must(err)
	for _, c := range containers.Containers {
		if c.State != cri.ContainerState_CONTAINER_EXITED {
			r.t.Errorf("container %s of a deleted pod is %v", c.Id, c.State)
		}
		_, err := client.RemoveContainer(r.ctx, &cri.RemoveContainerRequest{ContainerId: c.Id})
		r.must(err)
	}
	for _, s := range sandboxes.Items {
		_, err := client.RemovePodSandbox(r.ctx, &cri.RemovePodSandboxRequest{PodSandboxId: s.Id})
		r.must(err)
	}
	domains, err := r.Node.Libvirt.Virsh(r.ctx, "list", "--all", "--name")
	if err != nil || strings.TrimSpace(domains) != "" {
		r.t.Errorf("domains that are left: %q, %v", domains, err)
	}
	if left, err := os.ReadDir(r.Node.RawLogs); err != nil || len(left) > 0 {
		r.t.Errorf("raw logs that are left: %v, %v", left, err)
	}
}
