package e2e

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cri-logproxy/cri-logproxy/e2e/await"
	"github.com/cri-logproxy/cri-logproxy/e2e/guest"
	"github.com/cri-logproxy/cri-logproxy/e2e/internal/printed"
	"github.com/cri-logproxy/cri-logproxy/e2e/node"
	"github.com/cri-logproxy/cri-logproxy/e2e/pod"
)

// patience bounds each test: a boot takes three seconds on an idle machine and
// fifteen on a busy one.
const patience = 3 * time.Minute

// proxyBinary is cri-logproxy with the race detector.
var proxyBinary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "e2e")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	proxyBinary = filepath.Join(dir, "cri-logproxy")
	build := exec.Command("go", "build", "-race", "-o", proxyBinary, "./cmd/cri-logproxy")
	build.Dir = ".." // the product's module
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	code := 1
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "build the proxy:", err)
	} else {
		code = m.Run()
	}
	os.RemoveAll(dir)
	os.Exit(code)
}

// rig is a node and a pod on it.
type rig struct {
	*node.Node
	*pod.Pod
	t   *testing.T
	ctx context.Context
	log *printed.Buffer
}

// newNode starts a node. At the end the test fails if the proxy has complained
// of a data race.
func newNode(t *testing.T, o node.Options) *rig {
	t.Helper()
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	r := &rig{t: t, ctx: ctx, log: &printed.Buffer{}}
	o.Proxy, o.ProxyLog = proxyBinary, r.log
	o.ProxyArgs = append(o.ProxyArgs, "-v=2")
	var err error
	r.Node, err = node.Start(ctx, o)
	r.must(err)
	t.Cleanup(func() {
		if err := r.Node.Stop(); err != nil {
			t.Error(err)
		}
		if text := r.log.String(); t.Failed() || strings.Contains(text, "DATA RACE") || strings.Contains(text, "panic:") {
			t.Errorf("the proxy's log:\n%s", text)
		}
	})
	return r
}

// newRig starts a node and runs a pod's sandbox on it.
func newRig(t *testing.T, o node.Options) *rig {
	t.Helper()
	return newNode(t, o).addPod(strings.ToLower(strings.ReplaceAll(t.Name(), "/", "-")))
}

// addPod runs the sandbox of another pod on the node, and returns a rig of it.
func (r *rig) addPod(name string) *rig { return r.addPodWith(name, nil) }

// addPodWith is addPod with annotations.
func (r *rig) addPodWith(name string, annotations map[string]string) *rig {
	r.t.Helper()
	vm := *r
	var err error
	vm.Pod, err = pod.New(r.ctx, r.Socket, r.PodLogs, name)
	r.must(err)
	maps.Copy(vm.Config.Annotations, annotations)
	r.t.Cleanup(func() { vm.CRI.Close(context.WithoutCancel(r.ctx)) })
	r.must(vm.Pod.Run(r.ctx))
	return &vm
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// boot creates and starts the VM.
func (r *rig) boot(attempt uint32, b guest.Boot) {
	r.t.Helper()
	r.must(r.Create(r.ctx, attempt, b.Args()))
	r.must(r.Pod.Start(r.ctx))
}

// logs is what `kubectl logs` shows now, of a log in which the proxy has said
// nothing itself.
func (r *rig) logs() string {
	r.t.Helper()
	out, errOut := r.allLogs()
	if errOut != "" {
		r.t.Fatalf("stderr: %s", errOut)
	}
	return out
}

// allLogs is what `kubectl logs` shows now, and what of it the proxy has said.
func (r *rig) allLogs() (vm, proxy string) {
	r.t.Helper()
	var out, errOut bytes.Buffer
	r.must(r.Logs(r.ctx, false, &out, &errOut))
	return out.String(), errOut.String()
}

// follow follows the log as `kubectl logs -f` does.
func (r *rig) follow() *follower {
	f := &follower{done: make(chan error, 1)}
	go func() { f.done <- r.Logs(r.ctx, true, f, f) }()
	return f
}

// wait waits until the follower has shown text.
func (r *rig) wait(f *follower, text string) {
	r.t.Helper()
	r.must(await.Condition(r.ctx, fmt.Sprintf("%q in the log", text), func() (bool, error) {
		return strings.Contains(f.String(), text), nil
	}))
}

// follower is the terminal of `kubectl logs -f`.
type follower struct {
	printed.Buffer
	done chan error
}
