package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/cri-logproxy/cri-logproxy/e2e/cluster/kubelet"
	"github.com/cri-logproxy/cri-logproxy/e2e/guest"
	"github.com/cri-logproxy/cri-logproxy/e2e/node"
	"github.com/cri-logproxy/cri-logproxy/e2e/vmruntime"
)

// canaries are files in kubelet's working directory that it deletes, when it
// removes a container, if the runtime gives it an empty log path (it deletes
// whatever is there, in order) or a relative one, be it kubelet's own or that of
// the raw log (pkg/kubelet/logs/container_log_manager.go, Clean).
var canaries = []string{"_0.log", "_1.log", "_2.log", "canary", "vm/0.log", "vm/1.log", "vm/2.log"}

// TestCanaries has containers removed all the time while the proxy is killed and
// its state wiped, by two eras: one that has no log path, and one that has
// relative ones. kubelet must touch nothing of what is not its own.
func TestCanaries(t *testing.T) {
	for _, era := range []vmruntime.Era{vmruntime.Era082, vmruntime.Era10} {
		t.Run(string(era), func(t *testing.T) {
			r := newRig(t, Options{Kubelet: eraKubelet, Node: node.Options{Era: era}})
			r.setCanaries()
			r.removeContainers()
			r.nothingLeft()
			r.must(r.canariesLive())
		})
		t.Run(string(era)+" without the repair", func(t *testing.T) {
			r := newRig(t, Options{Kubelet: eraKubelet, Node: node.Options{Era: era, ProxyArgs: []string{"--personality=auto,-log-path"}}})
			r.setCanaries()
			r.removeContainers()
			r.await("a canary dies", func() (bool, error) { return r.canariesLive() != nil, nil })
		})
	}
}

func (r *rig) setCanaries() {
	r.t.Helper()
	for _, name := range canaries {
		path := filepath.Join(r.Kubelet.Dir(), name)
		r.must(os.MkdirAll(filepath.Dir(path), 0o755))
		r.must(os.WriteFile(path, nil, 0o644))
	}
}

// canariesLive says which canaries do not.
func (r *rig) canariesLive() (err error) {
	for _, name := range canaries {
		if _, statErr := os.Stat(filepath.Join(r.Kubelet.Dir(), name)); errors.Is(statErr, fs.ErrNotExist) {
			err = errors.Join(err, fmt.Errorf("kubelet has deleted %s in its working directory", name))
		}
	}
	return err
}

// removeContainers has kubelet remove containers of which the proxy knows
// nothing: some that were made before its state was lost, while it runs and while
// it does not, in a crash loop and for good.
func (r *rig) removeContainers() {
	r.t.Helper()
	loop := r.add(VM{Name: "loop", Restart: "Always", Boot: guest.Boot{Marker: "loop", PowerOff: true}})
	runs := r.add(VM{Name: "runs", Restart: "Always", Boot: guest.Boot{Marker: "runs"}})
	ends := r.add(VM{Name: "ends", Boot: guest.Boot{Marker: "ends", PowerOff: true}})
	runs.awaitPod("runs", running)
	ends.awaitPod("succeeds", succeeded)
	for n := range 2 { // it removes the attempt before, each time
		loop.awaitPod(fmt.Sprintf("is started again, %d", n+1), func(p kubelet.Pod) bool { return running(p) && p.Container().RestartCount > n })
		r.must(r.loseState())
	}
	r.must(r.Kubelet.RemoveStaticPod(runs.Name))
	r.must(r.loseState())
	r.Node.KillProxy()
	r.must(os.RemoveAll(r.Node.StateDir))
	r.must(r.Kubelet.RemoveStaticPod(ends.Name))
	r.must(r.Kubelet.RemoveStaticPod(loop.Name))
	r.must(r.Node.StartProxy(r.ctx))
}
