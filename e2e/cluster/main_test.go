package cluster

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cri-logproxy/cri-logproxy/e2e/await"
	"github.com/cri-logproxy/cri-logproxy/e2e/pod"
)

// patience bounds each test. On an idle machine the longest takes a minute and a
// half, most of which is waiting for kubelet's own timers.
const patience = 5 * time.Minute

// proxyBinary is cri-logproxy with the race detector.
var proxyBinary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("/tmp", "cluster") // a box shares /tmp
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	proxyBinary = filepath.Join(dir, "cri-logproxy")
	build := exec.Command("go", "build", "-race", "-o", proxyBinary, "./cmd/cri-logproxy")
	build.Dir = "../.." // the product's module
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

// rig is a cluster in a test.
type rig struct {
	*Cluster
	t   *testing.T
	ctx context.Context
}

// newRig starts a cluster. At the end the test fails if the proxy has complained
// of a data race.
func newRig(t *testing.T, o Options) *rig {
	t.Helper()
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	log := &buffer{}
	o.Node.Proxy, o.Node.ProxyLog = proxyBinary, log
	o.Node.ProxyArgs = append(o.Node.ProxyArgs, "-v=2")
	o.Progress = testLog{t}
	c, err := Start(ctx, o)
	if err != nil {
		t.Fatalf("%v\nthe proxy's log:\n%s", err, log)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the end of kubelet's log:\n%s", c.Kubelet.Tail())
		}
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
		if text := log.String(); t.Failed() || strings.Contains(text, "DATA RACE") || strings.Contains(text, "panic:") {
			t.Errorf("the proxy's log:\n%s", text)
		}
	})
	return &rig{Cluster: c, t: t, ctx: ctx}
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// await waits for a condition, and tells how long it took.
func (r *rig) await(what string, cond func() (bool, error)) {
	r.t.Helper()
	began := time.Now()
	r.must(await.Condition(r.ctx, what, cond))
	r.t.Logf("%s: %.1fs", what, time.Since(began).Seconds())
}

// logDir is where a pod's container has its logs, as we see it.
func (r *rig) logDir(podName, uid string) string {
	return filepath.Join(r.Node.PodLogs, Namespace+"_"+podName+"_"+uid, pod.ContainerName)
}

// logFiles returns all files of a container's log, the oldest first.
func (r *rig) logFiles(dir string) []string {
	r.t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	r.must(err)
	slices.Sort(files)                                      // kubelet adds the time to the names
	return append(files[1:len(files):len(files)], files[0]) // and 0.log is the current one
}

// logText puts a container's log together from all its files.
func (r *rig) logText(files []string) string {
	r.t.Helper()
	var all strings.Builder
	for _, file := range files {
		b, err := os.ReadFile(file)
		r.must(err)
		if strings.HasSuffix(file, ".gz") {
			z, err := gzip.NewReader(bytes.NewReader(b))
			r.must(err)
			b, err = io.ReadAll(z)
			r.must(err)
		}
		for line := range strings.Lines(string(b)) {
			fields := strings.SplitN(line, " ", 4)
			if len(fields) != 4 {
				r.t.Fatalf("%s: %q is no record", file, line)
			}
			if fields[1] != "stdout" {
				r.t.Errorf("%s: %q is not from the VM", file, line)
			}
			if fields[2] == "P" {
				fields[3] = strings.TrimSuffix(fields[3], "\n")
			}
			all.WriteString(fields[3])
		}
	}
	return all.String()
}

// testLog writes lines to a test's log.
type testLog struct{ t *testing.T }

func (l testLog) Write(b []byte) (int, error) {
	l.t.Log(strings.TrimSuffix(string(b), "\n"))
	return len(b), nil
}

// buffer collects what somebody else writes.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *buffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *buffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// diff shows where two texts part.
func diff(got, want string) string {
	if got == want {
		return ""
	}
	i := 0
	for i < min(len(got), len(want)) && got[i] == want[i] {
		i++
	}
	cut := func(s string) string { return s[max(0, i-40):min(len(s), i+80)] }
	return fmt.Sprintf("at byte %d (of %d, want %d):\n got …%q\nwant …%q", i, len(got), len(want), cut(got), cut(want))
}
