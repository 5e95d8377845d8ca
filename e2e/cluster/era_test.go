package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cri-logproxy/cri-logproxy/e2e/cluster/box"
	"github.com/cri-logproxy/cri-logproxy/e2e/cluster/kubelet"
	"github.com/cri-logproxy/cri-logproxy/e2e/guest"
	"github.com/cri-logproxy/cri-logproxy/e2e/internal/printed"
	"github.com/cri-logproxy/cri-logproxy/e2e/node"
	"github.com/cri-logproxy/cri-logproxy/e2e/pod"
	"github.com/cri-logproxy/cri-logproxy/e2e/vmruntime"
	"github.com/cri-logproxy/cri-logproxy/proxy/logmap"
)

// eraKubelet rotates whatever there is.
var eraKubelet = kubelet.Options{LogMaxSize: "4Ki", LogMaxFiles: 1000, LogMonitorInterval: 3 * time.Second}

// stable is how long a pod must live to be thought of as stable. kubelet kills
// one that it takes for changed within seconds.
const stable = time.Minute

// TestEras runs VMs of all kinds side by side on a node, for each era of Virtlet
// and each way to log.
func TestEras(t *testing.T) {
	for _, era := range vmruntime.Eras {
		for _, mode := range []logmap.Mode{logmap.ModeFile, logmap.ModeBoth} {
			t.Run(string(era)+" "+string(mode), func(t *testing.T) {
				o := node.Options{Era: era}
				if mode == logmap.ModeBoth {
					o.PTY, o.LogMode = true, mode
				}
				testEra(newRig(t, Options{Kubelet: eraKubelet, Node: o}), era)
			})
		}
	}
}

func testEra(r *rig, era vmruntime.Era) {
	r.setCanaries()
	alive := filepath.Join(r.Box.Path(box.ContainerLogs), "alive")
	r.must(os.WriteFile(alive, nil, 0o644))
	ends := guest.Boot{Lines: 5, PowerOff: true}
	goesOn := guest.Boot{Lines: 5, Tick: 200 * time.Millisecond, Login: true}
	marked := func(b guest.Boot, marker string) guest.Boot {
		b.Marker = marker
		return b
	}
	host := r.add(VM{Name: "host", Restart: "Always", Boot: marked(goesOn, "host"), HostNetwork: true})
	live := r.add(VM{Name: "live", Restart: "Always", Boot: marked(goesOn, "live"), Liveness: "containers/alive"})
	always := r.add(VM{Name: "always", Restart: "Always", Boot: marked(ends, "always")})
	never := r.add(VM{Name: "never", Restart: "Never", Boot: marked(ends, "never")})
	failure := r.add(VM{Name: "failure", Restart: "OnFailure", Boot: marked(ends, "failure")})

	always.crashLoops() // at once: kubelet does not wait for anybody to look
	always.remove()
	never.succeeds()
	failure.succeeds()
	failure.remove()
	r.summary(host, era)
	attempt := live.killedByProbe(alive)

	first := host.awaitPod("runs", running).Container()
	if first.RestartCount != 0 {
		r.t.Errorf("host was restarted %d times", first.RestartCount)
	}
	second := live.awaitPod("runs", running).Container()
	ended := never.awaitPod("is there", succeeded).Container()
	logsGoOn := func(when string) { host.goesOn(0, when); live.goesOn(attempt, when) }
	untouched := func() {
		r.t.Helper()
		host.untouched(first, running)
		live.untouched(second, running)
		never.untouched(ended, succeeded)
	}
	for _, restart := range r.restarts(logsGoOn) {
		r.must(restart.do())
		logsGoOn(restart.what)
	}
	untouched()
	if end := never.awaitPod("is there", succeeded).Container().State.Terminated; !end.FinishedAt.Equal(ended.State.Terminated.FinishedAt) {
		r.t.Errorf("never has ended anew: before %+v, after %+v", ended.State.Terminated, end)
	}
	r.await("host is old", func() (bool, error) { return time.Since(first.State.Running.StartedAt) > stable, nil })
	r.must(r.Kubelet.Stop())
	logsGoOn("without kubelet")
	r.must(r.loseState())
	logsGoOn("after the proxy's crash and the loss of its state")
	host.ticks(0)
	live.ticks(attempt)
	r.must(r.Kubelet.Restart(r.ctx))
	untouched()
	for _, v := range []*vm{host, live, never} {
		v.remove()
	}
	host.leavesNoLog()
	r.must(r.canariesLive())
	r.collectGarbage()
}

// untouched checks that kubelet says of a container what it said before.
func (v *vm) untouched(before kubelet.ContainerStatus, in func(kubelet.Pod) bool) {
	v.t.Helper()
	now := v.awaitPod("is as before", in).Container()
	if now.ContainerID != before.ContainerID || now.RestartCount != before.RestartCount {
		v.t.Errorf("%s was touched: before %+v, after %+v", v.Name, before, now)
	}
}

func running(p kubelet.Pod) bool   { return p.Container().State.Running != nil }
func succeeded(p kubelet.Pod) bool { return p.Status.Phase == "Succeeded" }

// plausible says whether a container has ended as kubelet must see it.
func plausible(end *kubelet.Terminated) bool {
	return end.ExitCode == 0 && end.Reason == "Completed" &&
		!end.FinishedAt.Before(end.StartedAt) && !end.FinishedAt.After(time.Now())
}

// succeeds waits until the VM has powered off for good, and has told all by then.
func (v *vm) succeeds() {
	v.t.Helper()
	p := v.awaitPod("succeeds", succeeded)
	if d := printed.Diff(v.text(0), v.whole()); d != "" {
		v.t.Errorf("%s: %s", v.Name, d)
	}
	c := p.Container()
	if end := c.State.Terminated; c.RestartCount != 0 || end == nil || !plausible(end) {
		v.t.Errorf("%s: %+v, ended %+v", v.Name, c, end)
	}
}

// crashLoops watches a VM that powers off again and again: as with any
// container kubelet waits before it starts it once more, and has at hand the log
// of the present run and of the one before, and no older ones.
func (v *vm) crashLoops() {
	v.t.Helper()
	seen := map[int]bool{} // runs of which all was seen
	var backOff bool
	v.await(v.Name+" runs for the third time, and the first is forgotten", func() (bool, error) {
		p, err := v.pod()
		if err != nil {
			return false, err
		}
		c := p.Container()
		n := c.RestartCount
		if w := c.State.Waiting; w != nil && w.Reason == "CrashLoopBackOff" {
			backOff = true
		}
		if n > 0 && running(p) && !seen[n] {
			if seen[n], err = v.nthRun(n, p); err != nil {
				return false, fmt.Errorf("restart %d: %w", n, err)
			}
		}
		_, err = os.Stat(filepath.Join(v.dir(), "0.log"))
		return n >= 2 && seen[n] && errors.Is(err, fs.ErrNotExist), nil
	})
	if !backOff || !seen[1] || !seen[2] {
		v.t.Errorf("%s: CrashLoopBackOff %v, restarts seen %v", v.Name, backOff, seen)
	}
}

// nthRun checks what there is to see of a VM that was restarted n times. ok is
// false if it is over too soon: kubelet removes what is old at any moment.
func (v *vm) nthRun(n int, p kubelet.Pod) (ok bool, err error) {
	previous, err := v.logs(url.Values{"previous": {"true"}, "timestamps": {"true"}})
	if err != nil {
		return false, nil
	}
	file, err := os.ReadFile(filepath.Join(v.dir(), fmt.Sprintf("%d.log", n-1)))
	if err != nil {
		return false, nil
	}
	link, linkErr := v.ContainerLogLink(v.name(), p.ContainerID())
	if now, err := v.pod(); err != nil || now.ContainerID() != p.ContainerID() || !running(now) {
		return false, err
	}
	end := p.Container().LastState.Terminated
	if linkErr != nil || filepath.Base(link) != fmt.Sprintf("%d.log", n) {
		return false, fmt.Errorf("the link leads to %q, %v", link, linkErr)
	}
	if end == nil || !plausible(end) || end.ContainerID == p.Container().ContainerID {
		return false, fmt.Errorf("the last state is %+v", end)
	}
	// Each of these records is a line.
	if d := printed.Diff(previous, strings.ReplaceAll(string(file), " stdout F ", " ")); d != "" {
		return false, fmt.Errorf("--previous: %s", d)
	}
	if d := printed.Diff(v.text(n-1), v.whole()); d != "" {
		return false, fmt.Errorf("the log before: %s", d)
	}
	return true, nil
}

// killedByProbe lets the liveness probe fail once, and returns which attempt the
// VM is in then.
func (v *vm) killedByProbe(alive string) int {
	v.t.Helper()
	v.awaitPod("runs", running)
	v.goesOn(0, "at all")
	v.must(os.Remove(alive))
	v.awaitPod("is killed", func(p kubelet.Pod) bool { return p.Container().RestartCount > 0 || !running(p) })
	v.must(os.WriteFile(alive, nil, 0o644))
	p := v.awaitPod("runs anew", func(p kubelet.Pod) bool { return running(p) && p.Container().RestartCount > 0 })
	n := p.Container().RestartCount
	v.tick = 0
	v.goesOn(n, "after that")
	if link, err := v.ContainerLogLink(v.name(), p.ContainerID()); err != nil || filepath.Base(link) != fmt.Sprintf("%d.log", n) {
		v.t.Errorf("%s: link to %q after %d restarts, %v", v.Name, link, n, err)
	}
	// Of the log before, kubelet shows the last of its files, which is empty if it
	// had just rotated the log.
	previous, err := v.logs(url.Values{"previous": {"true"}})
	files, all := v.files(n-1), v.text(n-1)
	current, readErr := logText(files[len(files)-1:])
	v.must(readErr)
	if err != nil || !strings.HasPrefix(all, v.whole()) || previous != current {
		v.t.Errorf("%s, --previous: %v, %q, want %q, of %q", v.Name, err, previous, current, all)
	}
	return n
}

// summary asks for kubelet's statistics while some VMs are off and one runs.
func (r *rig) summary(runs *vm, era vmruntime.Era) {
	r.t.Helper()
	if era != vmruntime.Era15 {
		_, err := r.Kubelet.Summary(r.ctx) // has nothing to tell of VMs
		r.must(err)
		return
	}
	r.await("kubelet has statistics of the VM", func() (bool, error) {
		body, err := r.Kubelet.Summary(r.ctx)
		if err != nil {
			return false, err
		}
		var summary struct {
			Pods []struct {
				PodRef     struct{ Name string }
				Containers []struct {
					Name string
					CPU  struct{ UsageCoreNanoSeconds uint64 }
					Logs struct{ UsedBytes uint64 }
				}
			}
		}
		if err := json.Unmarshal(body, &summary); err != nil {
			return false, err
		}
		for _, p := range summary.Pods {
			for _, c := range p.Containers {
				if c.Name != pod.ContainerName {
					return false, fmt.Errorf("statistics of a container %q", c.Name)
				}
				if p.PodRef.Name == runs.name() && c.CPU.UsageCoreNanoSeconds > 0 && c.Logs.UsedBytes > 0 {
					return true, nil
				}
			}
		}
		return false, nil
	})
}
