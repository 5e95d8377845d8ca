package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-client/pkg/logs"

	"github.com/cri-logproxy/cri-logproxy/e2e/await"
	"github.com/cri-logproxy/cri-logproxy/e2e/guest"
	"github.com/cri-logproxy/cri-logproxy/e2e/internal/printed"
	"github.com/cri-logproxy/cri-logproxy/e2e/node"
	"github.com/cri-logproxy/cri-logproxy/e2e/vmruntime"
)

// TestWholeLife boots a VM that prints everything awkward and powers off, while
// kubelet's reader follows: it must show every byte from the first on, and end
// by itself when it hears EXITED.
func TestWholeLife(t *testing.T) {
	r := newRig(t, node.Options{})
	b := guest.Boot{Marker: "life", Lines: 20, Known: true, PowerOff: true}
	r.boot(0, b)
	f := r.follow()
	r.must(<-f.done)
	want := strings.Join(b.Text(), "\n") + "\n"
	if d := printed.Diff(f.String(), want); d != "" {
		t.Errorf("followed: %s", d)
	}
	if d := printed.Diff(r.logs(), want); d != "" {
		t.Errorf("read afterwards: %s", d)
	}
	record, err := r.Mapping(r.ID)
	r.must(err)
	raw, err := os.ReadFile(filepath.Join(r.RawLogs, record.RawLogs[0]))
	r.must(err)
	if d := printed.Diff(string(raw), string(b.Console())); d != "" {
		t.Errorf("raw log: %s", d)
	}
	r.must(r.Pod.Remove(r.ctx))
	for _, dir := range []string{r.PodLogs, r.RawLogs} {
		left, err := os.ReadDir(dir)
		if err != nil || len(left) > 0 {
			t.Errorf("left in %s: %v, %v", dir, left, err)
		}
	}
	if _, err := r.Mapping(r.ID); err == nil {
		t.Error("the container is still on record")
	}
}

// TestPrompt checks that a prompt without newline shows within a second.
func TestPrompt(t *testing.T) {
	r := newRig(t, node.Options{})
	r.boot(0, guest.Boot{Login: true})
	record, err := r.Mapping(r.ID)
	r.must(err)
	raw := filepath.Join(r.RawLogs, record.RawLogs[0])
	f := r.follow()
	_, err = await.FileContains(r.ctx, raw, []byte(guest.LoginPrompt))
	r.must(err)
	written := time.Now()
	r.wait(f, guest.LoginPrompt)
	// The reader itself may take a second more (logForceCheckPeriod).
	if after := time.Since(written); after > 2*time.Second {
		t.Errorf("the prompt shows after %v", after)
	}
	r.must(r.Pod.Stop(r.ctx, 0))
	r.must(<-f.done)
}

// TestProxyRestarts stops and kills the proxy while a VM writes at full speed.
func TestProxyRestarts(t *testing.T) {
	r := newRig(t, node.Options{})
	b := guest.Boot{Marker: "flood", FloodMB: 2, PowerOff: true}
	r.boot(0, b)
	record, err := r.Mapping(r.ID)
	r.must(err)
	for i := 0; ; i++ {
		// Let some lines come in between, as measured by the log itself.
		size := fileSize(record.ContainerLog)
		r.must(await.Condition(r.ctx, "the log grows or the VM is off", func() (bool, error) {
			state, err := r.State(r.ctx)
			return fileSize(record.ContainerLog) > size || state == cri.ContainerState_CONTAINER_EXITED, err
		}))
		state, err := r.State(r.ctx)
		r.must(err)
		if state == cri.ContainerState_CONTAINER_EXITED {
			t.Logf("restarted %d times", i)
			if i < 4 {
				t.Error("that is too few to show anything")
			}
			break
		}
		if i%2 == 0 {
			r.KillProxy()
		} else {
			r.must(r.StopProxy())
		}
		r.must(r.StartProxy(r.ctx))
		r.must(await.Condition(r.ctx, "kubelet has connected again", func() (bool, error) {
			_, err := r.State(r.ctx)
			return err == nil, nil
		}))
	}
	if d := printed.Diff(r.logs(), strings.Join(b.Text(), "\n")+"\n"); d != "" {
		t.Error(d)
	}
}

func fileSize(path string) int64 {
	fi, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return fi.Size()
}

// TestRotation has kubelet rotate the log again and again while a VM floods its
// console and a reader follows. The raw log must not grow on disk.
func TestRotation(t *testing.T) {
	const retain = 64 << 10
	r := newRig(t, node.Options{ProxyArgs: []string{fmt.Sprintf("--raw-retain=%d", retain)}})
	b := guest.Boot{Marker: "rotate", FloodMB: 3, PowerOff: true}
	r.boot(0, b)
	f := r.follow()
	path, err := r.LogPath(r.ctx)
	r.must(err)
	now := time.Now()
	var files []string
	for {
		r.must(await.Condition(r.ctx, "the log grows or the VM is off", func() (bool, error) {
			state, err := r.State(r.ctx)
			return fileSize(path) > 100<<10 || state == cri.ContainerState_CONTAINER_EXITED, err
		}))
		state, err := r.State(r.ctx)
		r.must(err)
		if state == cri.ContainerState_CONTAINER_EXITED {
			break
		}
		now = now.Add(time.Second)
		rotated, err := r.Rotate(r.ctx, now)
		r.must(err)
		files = append(files, rotated)
	}
	t.Logf("rotated %d times", len(files))
	if len(files) < 3 {
		t.Error("that is too few to show anything")
	}
	r.must(<-f.done)
	want := strings.Join(b.Text(), "\n") + "\n"
	if d := printed.Diff(f.String(), want); d != "" {
		t.Errorf("followed: %s", d)
	}
	var all strings.Builder
	for _, file := range append(files, path) {
		text, err := os.ReadFile(file)
		r.must(err)
		for line := range strings.Lines(string(text)) {
			fields := strings.SplitN(line, " ", 4)
			if fields[2] == "P" {
				fields[3] = strings.TrimSuffix(fields[3], "\n")
			}
			all.WriteString(fields[3])
		}
	}
	if d := printed.Diff(all.String(), want); d != "" {
		t.Errorf("all files together: %s", d)
	}
	record, err := r.Mapping(r.ID)
	r.must(err)
	var st syscall.Stat_t
	r.must(await.Condition(r.ctx, "the raw log's space is given back", func() (bool, error) {
		err := syscall.Stat(filepath.Join(r.RawLogs, record.RawLogs[0]), &st)
		return st.Blocks*512 < retain+1<<20+64<<10, err
	}))
	t.Logf("the raw log has %d bytes and takes %d on disk", st.Size, st.Blocks*512)
}

// TestNextAttempt powers a VM off and starts it again, as restartPolicy Always
// does, with runtimes of both kinds.
func TestNextAttempt(t *testing.T) {
	for name, era := range map[string]vmruntime.Era{"domain made anew": "", "domain kept": vmruntime.Era15} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, node.Options{Era: era, Runtime: func(o *vmruntime.Options) { o.APIs = []vmruntime.API{vmruntime.V1} }})
			want := map[uint32]string{}
			var first guest.Boot
			for attempt := range uint32(3) {
				b := guest.Boot{Marker: "attempt" + string(rune('0'+attempt)), Lines: 3, PowerOff: true}
				if attempt == 0 {
					first = b
				}
				if era == vmruntime.Era15 {
					want[attempt] = strings.Join(first.Text(), "\n") + "\n" // the domain is the first one's
				} else {
					want[attempt] = strings.Join(b.Text(), "\n") + "\n"
				}
				r.boot(attempt, b)
				f := r.follow()
				r.must(<-f.done)
				if d := printed.Diff(f.String(), want[attempt]); d != "" {
					t.Errorf("attempt %d, followed: %s", attempt, d)
				}
				if d := printed.Diff(r.logs(), want[attempt]); d != "" {
					t.Errorf("attempt %d: %s", attempt, d)
				}
			}
			// The logs of the attempts before are as they were.
			for attempt, text := range want {
				path := filepath.Join(r.Config.LogDirectory, "vm", string(rune('0'+attempt))+".log")
				b, err := os.ReadFile(path)
				r.must(err)
				if got := strings.Count(string(b), "\n"); got != strings.Count(text, "\n") {
					t.Errorf("%s has %d lines", path, got)
				}
			}
		})
	}
}

// TestSymlinkAsRawLog plants a symlink where the raw log will be. libvirt
// follows it, which is its business; the proxy must not.
func TestSymlinkAsRawLog(t *testing.T) {
	r := newRig(t, node.Options{})
	secret := filepath.Join(r.Node.Dir, "secret")
	r.must(os.WriteFile(secret, []byte("root:x:secret\n"), 0o600))
	r.must(r.Create(r.ctx, 0, guest.Boot{}.Args()))
	record, err := r.Mapping(r.ID)
	r.must(err)
	raw := filepath.Join(r.RawLogs, record.RawLogs[0])
	r.must(os.Symlink(secret, raw))
	r.must(r.Pod.Start(r.ctx)) // the VM starts
	r.must(await.Condition(r.ctx, "the log says what is missing", func() (bool, error) {
		b, err := os.ReadFile(record.ContainerLog)
		return strings.Contains(string(b), "symlink"), err
	}))
	if b, err := os.ReadFile(record.ContainerLog); err != nil || strings.Contains(string(b), "root:x") || strings.Contains(string(b), "LP-BEGIN") {
		t.Errorf("log: %s, %v", b, err)
	}
	r.must(r.Pod.Stop(r.ctx, 0))
	if _, err := os.Lstat(raw); errors.Is(err, fs.ErrNotExist) {
		t.Error("the proxy has removed the symlink")
	}
}

// TestRuntimeRestarts has the runtime away for a while: calls say so at once,
// the VM's log goes on, and calls work again by themselves.
func TestRuntimeRestarts(t *testing.T) {
	r := newRig(t, node.Options{})
	b := guest.Boot{Marker: "tick", Tick: 50 * time.Millisecond}
	r.boot(0, b)
	f := r.follow()
	r.wait(f, b.TickLine(1))
	r.must(r.StopRuntime())
	asked := time.Now()
	_, err := r.State(r.ctx)
	if status.Code(err) != codes.Unavailable || time.Since(asked) > time.Second {
		t.Errorf("without a runtime: %v, after %v", err, time.Since(asked))
	}
	seen := strings.Count(f.String(), "LP-TICK")
	r.wait(f, b.TickLine(seen+20)+"\n")
	r.must(r.StartRuntime())
	r.must(await.Condition(r.ctx, "calls work again", func() (bool, error) {
		_, err := r.State(r.ctx)
		return err == nil, nil
	}))
	r.must(r.Pod.Stop(r.ctx, 0))
	r.must(<-f.done)
	text := f.String()
	if !strings.HasPrefix(text, "LP-BEGIN tick\n") {
		t.Errorf("the log begins with %.40q", text)
	}
	for i := range strings.Count(text, "LP-TICK") - 1 { // the last may be cut off
		if n := strings.Count(text, b.TickLine(i+1)+"\n"); n != 1 {
			t.Errorf("%q is there %d times", b.TickLine(i+1), n)
		}
	}
}

// TestV1alpha2 runs a pod through the older API, with a runtime that knows no
// other.
func TestV1alpha2(t *testing.T) {
	r := newNode(t, node.Options{Runtime: func(o *vmruntime.Options) { o.APIs = []vmruntime.API{vmruntime.V1alpha2} }})
	client, err := vmruntime.Dial(r.Socket, vmruntime.V1alpha2)
	r.must(err)
	defer client.Close()
	config := &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Namespace: "default", Name: "old", Uid: "old-uid"},
		LogDirectory: filepath.Join(r.PodLogs, "default_old_old-uid"),
	}
	r.must(os.MkdirAll(filepath.Join(config.LogDirectory, "vm"), 0o755))
	sandbox, err := client.RunPodSandbox(r.ctx, &cri.RunPodSandboxRequest{Config: config})
	r.must(err)
	b := guest.Boot{Marker: "old", Lines: 3, PowerOff: true}
	created, err := client.CreateContainer(r.ctx, &cri.CreateContainerRequest{
		PodSandboxId: sandbox.PodSandboxId, SandboxConfig: config,
		Config: &cri.ContainerConfig{Metadata: &cri.ContainerMetadata{Name: "vm"}, LogPath: "vm/0.log", Args: b.Args()},
	})
	r.must(err)
	_, err = client.StartContainer(r.ctx, &cri.StartContainerRequest{ContainerId: created.ContainerId})
	r.must(err)
	var st *cri.ContainerStatusResponse
	r.must(await.Condition(r.ctx, "the VM powers off", func() (bool, error) {
		st, err = client.ContainerStatus(r.ctx, &cri.ContainerStatusRequest{ContainerId: created.ContainerId})
		return st.GetStatus().GetState() == cri.ContainerState_CONTAINER_EXITED, err
	}))
	var out bytes.Buffer
	r.must(logs.ReadLogs(r.ctx, st.Status.LogPath, created.ContainerId, &logs.LogOptions{}, nil, &out, &out))
	if d := printed.Diff(out.String(), strings.Join(b.Text(), "\n")+"\n"); d != "" {
		t.Error(d)
	}
}
