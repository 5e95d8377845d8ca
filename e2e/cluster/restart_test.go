package cluster

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/cri-logproxy/cri-logproxy/e2e/cluster/kubelet"
	"github.com/cri-logproxy/cri-logproxy/e2e/guest"
	"github.com/cri-logproxy/cri-logproxy/e2e/internal/printed"
)

// TestRestarts ends each part of a node under a VM that writes on, and starts it
// again. The VM must not be touched, and its log must have every line once.
func TestRestarts(t *testing.T) {
	r := newRig(t, Options{Kubelet: smallLogs})
	b := guest.Boot{Marker: "restarts", Lines: 5, Tick: 20 * time.Millisecond, Login: true}
	name := kubelet.StaticName("restarts")
	r.must(r.Kubelet.AddStaticPod("restarts", VM{Name: "restarts", Boot: b}.Manifest()))
	pod := func() (p kubelet.Pod) {
		r.await("the pod runs", func() (found bool, err error) {
			p, found, err = r.Kubelet.Pod(r.ctx, name)
			return found && p.Status.Phase == "Running", err
		})
		return p
	}
	before := pod()
	dir := r.logDir(name, before.Metadata.UID)
	ticks := func() int {
		text, _ := r.log(dir)
		return strings.Count(text, "LP-TICK")
	}
	goesOn := func(what string) {
		n := ticks() + 50
		r.await(fmt.Sprintf("the log goes on %s", what), func() (bool, error) { return ticks() >= n, nil })
	}
	goesOn("at all")
	for _, restart := range r.restarts(goesOn) {
		r.must(restart.do())
		goesOn(restart.what)
	}
	r.must(r.loseState())
	goesOn("after the proxy's crash and the loss of its state")
	// What kubelet says may be from before: it asks the runtime again for this.
	r.must(r.Kubelet.Stop())
	r.must(r.Kubelet.Restart(r.ctx))
	after := pod()
	if after.ContainerID() != before.ContainerID() || after.Status.ContainerStatuses[0].RestartCount != 0 {
		t.Errorf("the VM was touched: before %+v, after %+v", before, after)
	}
	got, _ := r.log(dir)
	got = strings.Replace(got, guest.LoginPrompt, "", 1)
	want := strings.Join(b.Text(), "\n") + "\n"
	for i := 1; len(want) < len(got); i++ {
		want += b.TickLine(i) + "\n"
	}
	if !strings.HasPrefix(want, got) {
		t.Error(printed.Diff(got, want))
	}
	r.must(r.Kubelet.RemoveStaticPod("restarts"))
	r.nothingLeft()
}

// restart ends a part of the node and starts it again.
type restart struct {
	what string
	do   func() error
}

// restarts are of all parts; no VM and no log may suffer. goesOn waits until logs
// have gone on.
func (r *rig) restarts(goesOn func(what string)) []restart {
	return []restart{
		{"after the runtime's restart", func() error {
			if err := r.Node.StopRuntime(); err != nil {
				return err
			}
			goesOn("without the runtime")
			return r.Node.StartRuntime()
		}},
		{"after libvirtd's restart", func() error { return r.Node.Libvirt.RestartLibvirtd(r.ctx) }},
		{"after the proxy's restart", func() error {
			if err := r.Node.StopProxy(); err != nil {
				return err
			}
			return r.Node.StartProxy(r.ctx)
		}},
		// The last: what it says then it has asked the runtime anew.
		{"with the next kubelet", func() error {
			r.Kubelet.Kill()
			goesOn("without kubelet")
			return r.Kubelet.Restart(r.ctx)
		}},
	}
}

// loseState has the proxy crash, and takes its state away.
func (r *rig) loseState() error {
	r.Node.KillProxy()
	if err := os.RemoveAll(r.Node.StateDir); err != nil {
		return err
	}
	return r.Node.StartProxy(r.ctx)
}
