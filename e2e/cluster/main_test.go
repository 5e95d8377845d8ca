package cluster

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cri-logproxy/cri-logproxy/e2e/await"
	"github.com/cri-logproxy/cri-logproxy/e2e/cluster/box"
	"github.com/cri-logproxy/cri-logproxy/e2e/internal/printed"
	"github.com/cri-logproxy/cri-logproxy/e2e/pod"
)

// patience bounds each test. On an idle machine the longest takes a minute and a
// half, most of which is waiting for kubelet's own timers.
const patience = 5 * time.Minute

// proxyBinary is cri-logproxy with the race detector.
var proxyBinary string

func TestMain(m *testing.M) {
	// Most of the time they wait for kubelet's timers; -parallel has the last word.
	if err := flag.Set("test.parallel", "4"); err != nil {
		panic(err) // it is testing's own
	}
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
	log := &printed.Buffer{}
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

// logDir is where a pod's only container has its logs, as we see it.
func (r *rig) logDir(podName, uid string) string {
	return filepath.Join(r.Box.Path(box.PodLogs), Namespace+"_"+podName+"_"+uid, pod.ContainerName)
}

// logName is what files in a container's log directory are called, as long as
// the container was not started again.
var logName = regexp.MustCompile(`^0\.log(\.\d{8}-\d{6}(\.gz)?)?$`)

// logFiles returns all files of a container's log, the oldest first, and false
// while kubelet rotates or zips one. Other files must not be there.
func logFiles(dir string) (files []string, complete bool, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) == 0 || entries[0].Name() != "0.log" {
		return nil, false, err
	}
	for i, e := range entries { // the current one, then the others by their time
		if strings.HasSuffix(e.Name(), ".tmp") || i > 0 && e.Name() == entries[i-1].Name()+".gz" {
			return nil, false, nil
		}
		if !logName.MatchString(e.Name()) {
			return nil, false, fmt.Errorf("a stray file: %s/%s", dir, e.Name())
		}
		files = append(files, filepath.Join(dir, e.Name()))
	}
	return append(files[1:len(files):len(files)], files[0]), true, nil
}

// log puts a container's log together from all its files.
func (r *rig) log(dir string) (text string, files []string) {
	r.t.Helper()
	r.must(await.Condition(r.ctx, "all files of a log", func() (ok bool, err error) {
		if files, ok, err = logFiles(dir); !ok {
			return false, err
		}
		text, err = logText(files)
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil // kubelet has given it another name
		}
		after, ok, _ := logFiles(dir)
		return ok && slices.Equal(files, after), err
	}))
	return text, files
}

// logText returns what containers have said in some files of a log.
func logText(files []string) (string, error) {
	var all strings.Builder
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		if strings.HasSuffix(file, ".gz") {
			z, err := gzip.NewReader(bytes.NewReader(b))
			if err != nil {
				return "", err
			}
			if b, err = io.ReadAll(z); err != nil {
				return "", err
			}
		}
		for line := range strings.Lines(string(b)) {
			fields := strings.SplitN(line, " ", 4)
			if len(fields) != 4 || fields[1] != "stdout" {
				return "", fmt.Errorf("%s: %q is no record of a container's stdout", file, line)
			}
			if fields[2] == "P" {
				fields[3] = strings.TrimSuffix(fields[3], "\n")
			}
			all.WriteString(fields[3])
		}
	}
	return all.String(), nil
}

// testLog writes lines to a test's log.
type testLog struct{ t *testing.T }

func (l testLog) Write(b []byte) (int, error) {
	l.t.Log(strings.TrimSuffix(string(b), "\n"))
	return len(b), nil
}
