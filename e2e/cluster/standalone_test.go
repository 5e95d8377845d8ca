package cluster

import (
	"errors"
	"io"
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
	"github.com/cri-logproxy/cri-logproxy/e2e/pod"
)

// smallLogs has kubelet rotate as often as it can, and keep all.
var smallLogs = kubelet.Options{LogMaxSize: "64Ki", LogMaxFiles: 1000, LogMonitorInterval: 3 * time.Second}

// TestStandalone has a kubelet without a cluster run a VM that floods its
// console and powers off, while kubelet rotates the log and somebody follows it.
// At the end all of it must be there.
func TestStandalone(t *testing.T) {
	r := newRig(t, Options{Kubelet: smallLogs})
	b := guest.Boot{Marker: "static", Lines: 20, Known: true, FloodMB: 5, PowerOff: true}
	want := strings.Join(b.Text(), "\n") + "\n"
	name := kubelet.StaticName("static")
	r.must(r.Kubelet.AddStaticPod("static", VM{Name: "static", Boot: b}.Manifest()))

	var p kubelet.Pod
	r.await("the pod runs", func() (found bool, err error) {
		p, found, err = r.Kubelet.Pod(r.ctx, name)
		return found && p.Status.Phase == "Running", err
	})
	log, err := r.Kubelet.Logs(r.ctx, Namespace, name, pod.ContainerName, url.Values{"follow": {"true"}})
	r.must(err)
	followed := make(chan string, 1)
	go func() {
		text, err := io.ReadAll(log)
		if err != nil {
			text = append(text, err.Error()...)
		}
		followed <- string(text)
	}()
	inside := filepath.Join(box.PodLogs, Namespace+"_"+name+"_"+p.Metadata.UID, pod.ContainerName, "0.log")
	if link, err := r.ContainerLogLink(name, p.ContainerID()); err != nil || link != inside {
		t.Errorf("link in %s: %q, %v, want %q", box.ContainerLogs, link, err, inside)
	}

	r.await("the pod succeeds", func() (found bool, err error) {
		p, found, err = r.Kubelet.Pod(r.ctx, name)
		return found && p.Status.Phase == "Succeeded", err
	})
	// From now on, nothing may come that was not there when kubelet heard EXITED.
	dir := r.logDir(name, p.Metadata.UID)
	text, files := r.log(dir)
	if d := printed.Diff(text, want); d != "" {
		t.Errorf("all files together: %s", d)
	}
	// A reader that lags behind two rotations misses the file between, or begins to
	// watch too late for the first (cri-client, pkg/logs): kubelet's is left behind
	// by a flood on a busy machine. The end it must have.
	current, err := logText(files[len(files)-1:])
	r.must(err)
	if got := <-followed; !strings.HasSuffix(got, current) {
		t.Errorf("followed: it ends in %q, the log in %q", got[max(0, len(got)-200):], current[max(0, len(current)-200):])
	}
	var zipped int
	for _, file := range files {
		if strings.HasSuffix(file, ".gz") {
			zipped++
		}
	}
	t.Logf("%d bytes of console in %d files, %d of them zipped", len(b.Console()), len(files), zipped)
	if zipped == 0 {
		t.Error("that is too few to show anything")
	}

	log, err = r.Kubelet.Logs(r.ctx, Namespace, name, pod.ContainerName, url.Values{"tailLines": {"2"}})
	r.must(err)
	tail, err := io.ReadAll(log)
	r.must(err)
	// kubelet looks into the current file alone, which may have just begun.
	lines := strings.SplitAfter(current, "\n")
	if want := strings.Join(lines[max(0, len(lines)-3):], ""); string(tail) != want {
		t.Errorf("the last two lines: %q, want %q", tail, want)
	}

	r.must(r.Kubelet.RemoveStaticPod("static"))
	r.await("kubelet forgets the pod's logs", func() (bool, error) {
		_, err := os.Stat(filepath.Dir(dir))
		return errors.Is(err, fs.ErrNotExist), nil
	})
	r.nothingLeft()
}

// nothingLeft checks that pods that are gone have left nothing.
func (r *rig) nothingLeft() {
	r.t.Helper()
	dirs := []string{r.Box.Path(box.PodLogs), r.Box.Path(box.ContainerLogs)}
	if r.Node != nil {
		dirs = append(dirs, r.Node.RawLogs)
	}
	for _, dir := range dirs {
		r.await("nothing is left in "+filepath.Base(dir), func() (bool, error) {
			left, err := os.ReadDir(dir)
			return len(left) == 0, err
		})
	}
}
