package cluster

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/cri-logproxy/cri-logproxy/e2e/guest"
	"github.com/cri-logproxy/cri-logproxy/e2e/internal/printed"
	"github.com/cri-logproxy/cri-logproxy/e2e/node"
	"github.com/cri-logproxy/cri-logproxy/e2e/vmruntime"
)

// TestKubectl follows a VM with kubectl from its first line to its deletion,
// while kubelet rotates the log and the proxy is killed and upgraded again and
// again.
func TestKubectl(t *testing.T) {
	o := smallLogs
	o.LogMaxSize = "16Ki"
	// The era is the newest, for it has figures.
	r := newRig(t, Options{API: true, Kubelet: o, Node: node.Options{ProxyActivated: true, Era: vmruntime.Era15}})
	const name = "vm1"
	b := guest.Boot{Marker: "kubectl", Lines: 20, Known: true, Tick: 20 * time.Millisecond, Login: true}
	_, err := r.Control.KubectlInput(r.ctx, VM{Name: name, Boot: b}.Manifest(), "apply", "-f", "-")
	r.must(err)
	r.await("kubectl shows the pod running", func() (bool, error) {
		out, err := r.Control.Kubectl(r.ctx, "get", "pod", name, "-o=jsonpath={.status.phase}")
		return out == "Running", err
	})
	f := r.follow(name)
	r.wait(f, b.TickLine(150)+"\n") // three seconds without anything but ticks
	uid := r.kubectl("get", "pod", name, "-o=jsonpath={.metadata.uid}")

	// kubelet shows the current file alone, which has just begun after a rotation.
	logs := func(r *rig, atLeast int, args ...string) (lines string) {
		r.t.Helper()
		r.await(fmt.Sprintf("%d lines with %s", atLeast, args[0]), func() (bool, error) {
			lines = r.kubectl(append([]string{"logs", name}, args...)...)
			return strings.Count(lines, "\n") >= atLeast, nil
		})
		return lines
	}
	t.Run("tail", func(t *testing.T) {
		r := r.on(t)
		r.consecutive(b, logs(r, 5, "--tail=5"), 5)
	})
	t.Run("since", func(t *testing.T) {
		r := r.on(t)
		lines := logs(r, 20, "--since=2s")
		n := strings.Count(lines, "\n")
		if n > 110 { // a tick takes longer than the guest sleeps
			t.Errorf("%d lines of the last two seconds", n)
		}
		r.consecutive(b, lines, n)
	})
	t.Run("timestamps", func(t *testing.T) {
		stamp := regexp.MustCompile(`^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z) LP-TICK `)
		last := ""
		for line := range strings.Lines(logs(r.on(t), 5, "--tail=50", "--timestamps")) {
			m := stamp.FindStringSubmatch(line)
			if m == nil || m[1] < last {
				t.Fatalf("after %s: %q", last, line)
			}
			last = m[1]
		}
		at, err := time.Parse(time.RFC3339Nano, last)
		if age := time.Since(at); err != nil || age < 0 || age > 30*time.Second {
			t.Errorf("the last line is of %s, %v ago (%v)", last, age, err)
		}
	})

	t.Run("stats", func(t *testing.T) { r.on(t).stats(name) })

	for range 3 {
		r.Proxy.Kill()
		n := f.ticks()
		r.await("kubelet calls while there is no proxy", r.Proxy.Awaited) // the VM writes on, and nobody converts
		r.must(r.Proxy.Start(r.ctx))
		r.wait(f, b.TickLine(n+50)+"\n")
	}
	for range 2 {
		n := f.ticks()
		r.upgrade(func() { r.wait(f, b.TickLine(n+50)+"\n") })
	}
	dir := r.logDir(name, uid)
	_, before := r.log(dir)
	r.await("two rotations more", func() (bool, error) {
		_, files := r.log(dir)
		return len(files) >= len(before)+2, nil
	})
	r.t.Logf("%d files before, %d lines", len(before), strings.Count(f.String(), "\n"))

	began := time.Now()
	r.kubectl("delete", "pod", name)
	t.Logf("deleted in %.1fs", time.Since(began).Seconds())
	r.must(<-f.done)
	want := strings.Join(b.Text(), "\n") + "\n"
	got := f.String()
	for i := 1; len(want) < len(got); i++ {
		want += b.TickLine(i) + "\n"
	}
	got = strings.Replace(got, guest.LoginPrompt, "", 1) // it comes somewhere between the first ticks
	if !strings.HasPrefix(want, got) {
		t.Errorf("followed: %s", printed.Diff(got, want))
	}
	r.nothingLeft()
}

// consecutive checks that lines are n ticks without a gap.
func (r *rig) consecutive(b guest.Boot, lines string, n int) {
	r.t.Helper()
	var first int
	if _, err := fmt.Sscanf(lines, "LP-TICK "+b.Marker+" %d", &first); err != nil {
		r.t.Fatalf("%q: %v", lines, err)
	}
	var want strings.Builder
	for i := range n {
		want.WriteString(b.TickLine(first+i) + "\n")
	}
	if d := printed.Diff(lines, want.String()); d != "" {
		r.t.Error(d)
	}
}

// on is the rig in a subtest.
func (r *rig) on(t *testing.T) *rig {
	sub := *r
	sub.t = t
	return &sub
}

// kubectl returns what kubectl prints.
func (r *rig) kubectl(args ...string) string {
	r.t.Helper()
	out, err := r.Control.Kubectl(r.ctx, args...)
	r.must(err)
	return out
}

// follower is what a kubectl that goes on has printed, `kubectl logs -f` for one.
type follower struct {
	printed.Buffer
	name string
	done chan error
}

// follow starts `kubectl logs -f`.
func (r *rig) follow(podName string) *follower {
	r.t.Helper()
	return r.start(nil, "logs", "-f", podName)
}

// start starts a kubectl that goes on until the test ends.
func (r *rig) start(stdin []byte, args ...string) *follower {
	r.t.Helper()
	ctx, cancel := context.WithCancel(r.ctx)
	f := &follower{name: "kubectl " + args[0], done: make(chan error, 1)}
	wait, err := r.Control.StartKubectl(ctx, stdin, f, f, args...)
	if err != nil {
		cancel()
		r.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		f.done <- wait()
	}()
	r.t.Cleanup(func() {
		cancel()
		<-ended
	})
	return f
}

// ticks returns how many ticks were shown.
func (f *follower) ticks() int { return strings.Count(f.String(), "LP-TICK") }

// wait waits until the follower has shown text.
func (r *rig) wait(f *follower, text string) {
	r.t.Helper()
	r.await(fmt.Sprintf("%q is shown", text), func() (bool, error) {
		select {
		case err := <-f.done:
			f.done <- err
			return false, fmt.Errorf("%s has ended: %v; it has shown …%q", f.name, err, f.String()[max(0, len(f.String())-200):])
		default:
		}
		return strings.Contains(f.String(), text), nil
	})
}
