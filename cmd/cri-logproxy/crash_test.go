package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-logproxy/cri-logproxy/proxy/proxytest"
)

// TestCrash kills the real binary again and again with SIGKILL, while a VM
// writes at full speed, kubelet rotates its log every 100 ms, and the VM powers
// off and is started again. Every line must be in the logs once, in order.
// CRASH_ROUNDS says how often (default 200).
func TestCrash(t *testing.T) {
	rounds := 200
	if s := os.Getenv("CRASH_ROUNDS"); s != "" {
		var err error
		if rounds, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	c := newCrash(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() { c.kubelet(ctx) })
	for round := range rounds {
		cmd := command(t, flags(c.dir, "--vm-log-location="+c.dir+"/vms", "--raw-retain=64KiB", "-v=2")...)
		cmd.Stderr = &c.stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// Long enough to start, mostly; sometimes not.
		life := time.NewTimer(time.Duration(20+rand.IntN(120)) * time.Millisecond)
		select {
		case <-life.C:
		case err := <-c.failed:
			_ = cmd.Process.Kill()
			t.Fatalf("round %d: %v\n%s", round, err, c.stderr.tail())
		}
		if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // it was killed
	}
	// One more, which lives until the last byte is through.
	cmd := command(t, flags(c.dir, "--vm-log-location="+c.dir+"/vms", "--raw-retain=64KiB", "-v=2")...)
	cmd.Stderr = &c.stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	close(c.finish)
	select {
	case err := <-c.failed:
		if err != nil {
			t.Errorf("%v\n%s", err, c.stderr.tail())
		}
	case <-time.After(60 * time.Second):
		t.Errorf("the last run does not end\n%s", c.stderr.tail())
	}
	cancel()
	wg.Wait()
	if err := stopCommand(cmd); err != nil {
		t.Errorf("the last one: %v", err)
	}
	for _, bad := range []string{"DATA RACE", "panic:", "does not match"} {
		if text := c.stderr.String(); strings.Contains(text, bad) {
			t.Errorf("%s in the log:\n%s", bad, text[strings.Index(text, bad):])
		}
	}
	t.Logf("%d kills, %d runs of the VM, %d rotations, %d MB", rounds, c.runs, c.rotations, c.bytes>>20)
}

func stopCommand(cmd *exec.Cmd) error {
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	return cmd.Wait()
}

// crash is a node on which everything but the proxy goes on.
type crash struct {
	t       *testing.T
	dir     string
	backend *proxytest.Backend
	client  runtimeapi.RuntimeServiceClient
	stderr  output
	finish  chan struct{} // closed: the present run of the VM is the last
	failed  chan error    // what kubelet ended with

	mu      sync.Mutex
	vm      *vmRun
	attempt int // of the domain that is defined

	runs, rotations int
	bytes           int64
}

func newCrash(t *testing.T) *crash {
	c := &crash{t: t, dir: newDir(t), finish: make(chan struct{}), failed: make(chan error, 1)}
	var err error
	c.backend, err = proxytest.NewBackend(proxytest.BackendOptions{Socket: c.dir + "/runtime.sock"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.backend.Close)
	for _, d := range []string{c.rawDir(), c.logDir()} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	conn, err := proxytest.Dial(c.dir + "/proxy.sock")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	c.client = runtimeapi.NewRuntimeServiceClient(conn)
	c.backend.Handle("CreateContainer", proxytest.Typed(func(context.Context, *runtimeapi.CreateContainerRequest) (*runtimeapi.CreateContainerResponse, error) {
		return &runtimeapi.CreateContainerResponse{ContainerId: "c1"}, nil
	}))
	c.backend.Handle("StartContainer", proxytest.Typed(c.startVM))
	c.backend.Handle("ContainerStatus", proxytest.Typed(func(context.Context, *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
		return &runtimeapi.ContainerStatusResponse{Status: &runtimeapi.ContainerStatus{Id: "c1", State: c.state()}}, nil
	}))
	c.backend.Handle("ListContainers", proxytest.Typed(func(context.Context, *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
		return &runtimeapi.ListContainersResponse{Containers: []*runtimeapi.Container{{Id: "c1", PodSandboxId: "uid", State: c.state()}}}, nil
	}))
	c.backend.Handle("ListPodSandbox", proxytest.Typed(func(context.Context, *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
		return &runtimeapi.ListPodSandboxResponse{}, nil
	}))
	return c
}

func (c *crash) rawDir() string { return c.dir + "/vms/uid" }
func (c *crash) logDir() string { return c.dir + "/pods/ns_pod_uid" }

func (c *crash) state() runtimeapi.ContainerState {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.vm == nil:
		return runtimeapi.ContainerState_CONTAINER_CREATED
	case c.vm.isDone():
		return runtimeapi.ContainerState_CONTAINER_EXITED
	}
	return runtimeapi.ContainerState_CONTAINER_RUNNING
}

// startVM does what libvirt does in mode file: it truncates the raw log, which
// is the first attempt's for good, and the VM writes. kubelet repeats a
// StartContainer whose answer it has not got.
func (c *crash) startVM(context.Context, *runtimeapi.StartContainerRequest) (*runtimeapi.StartContainerResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.vm != nil && c.vm.attempt == c.attempt {
		return nil, errors.New("domain is already running")
	}
	raw, err := os.OpenFile(c.rawDir()+"/_0.log", os.O_WRONLY|os.O_CREATE|os.O_APPEND|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	c.vm = &vmRun{attempt: c.attempt, raw: raw, done: make(chan struct{})}
	go c.vm.write()
	return &runtimeapi.StartContainerResponse{}, nil
}

// vmRun is a VM from power-on to power-off.
type vmRun struct {
	attempt int
	raw     *os.File
	done    chan struct{}
	text    bytes.Buffer // what a reader must see; complete when done
	err     error
}

func (v *vmRun) isDone() bool {
	select {
	case <-v.done:
		return true
	default:
		return false
	}
}

// write writes numbered lines of all lengths, in pieces of all lengths.
func (v *vmRun) write() {
	defer close(v.done)
	var pending bytes.Buffer
	lines := 2000 + rand.IntN(20000)
	for i := range lines {
		length := rand.IntN(120)
		if i%1000 == 999 {
			length = 30000 // several records
		}
		line := fmt.Sprintf("attempt %d line %06d %s", v.attempt, i, strings.Repeat("x", length))
		if i == lines-1 {
			line += "\nlogin: " // and off
		} else {
			line += "\n"
		}
		v.text.WriteString(line)
		pending.WriteString(strings.ReplaceAll(line, "\n", "\r\n"))
		if n := rand.IntN(20000); pending.Len() > n {
			if _, v.err = v.raw.Write(pending.Next(n)); v.err != nil {
				return
			}
		}
	}
	_, v.err = v.raw.Write(pending.Bytes())
	v.err = errors.Join(v.err, v.raw.Close())
}

// kubelet runs the VM over and over, rotates its log, and checks it.
func (c *crash) kubelet(ctx context.Context) {
	for attempt := 0; ; attempt++ {
		last := false
		select {
		case <-c.finish:
			last = true
		default:
		}
		if err := c.oneRun(ctx, attempt); err != nil {
			c.failed <- fmt.Errorf("attempt %d: %w", attempt, err)
			return
		}
		c.runs++
		if last {
			c.failed <- nil
			return
		}
	}
}

// until calls the proxy until it answers; most of the time it is dead.
func until(ctx context.Context, what string, call func() error) error {
	tick := time.NewTicker(3 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(60 * time.Second)
	for {
		err := call()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		case <-timeout:
			return fmt.Errorf("%s: %w", what, err)
		}
	}
}

func (c *crash) oneRun(ctx context.Context, attempt int) error {
	c.mu.Lock()
	c.attempt = attempt
	c.mu.Unlock()
	err := until(ctx, "CreateContainer", func() error {
		_, err := c.client.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{
			PodSandboxId:  "uid",
			Config:        &runtimeapi.ContainerConfig{Metadata: &runtimeapi.ContainerMetadata{Name: "vm", Attempt: uint32(attempt)}, LogPath: strconv.Itoa(attempt) + ".log"},
			SandboxConfig: &runtimeapi.PodSandboxConfig{LogDirectory: c.logDir()},
		})
		return err
	})
	if err != nil {
		return err
	}
	if err := until(ctx, "StartContainer", func() error {
		_, err := c.client.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: "c1"})
		if err != nil && strings.Contains(err.Error(), "already running") {
			return nil // the answer was lost
		}
		return err
	}); err != nil {
		return err
	}
	c.mu.Lock()
	vm := c.vm
	c.mu.Unlock()
	log := filepath.Join(c.logDir(), strconv.Itoa(attempt)+".log")
	rotate := time.NewTicker(100 * time.Millisecond)
	defer rotate.Stop()
	var rotated []string
	for running := true; running; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-vm.done:
			running = false
		case <-rotate.C:
			if name := c.rotate(ctx, log, len(rotated)); name != "" {
				rotated = append(rotated, name)
			}
		}
	}
	if vm.err != nil {
		return vm.err
	}
	if err := until(ctx, "ContainerStatus", func() error {
		st, err := c.client.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: "c1"})
		if err == nil && (st.Status.State != runtimeapi.ContainerState_CONTAINER_EXITED || st.Status.LogPath != log) {
			err = fmt.Errorf("status %v", st.Status)
		}
		return err
	}); err != nil {
		return err
	}
	// EXITED was answered: the log is complete.
	c.rotations += len(rotated)
	c.bytes += int64(vm.text.Len())
	if err := checkLogs(append(rotated, log), vm.text.String()); err != nil {
		return err
	}
	for _, name := range append(rotated, log) {
		if err := os.Remove(name); err != nil {
			return err
		}
	}
	return nil
}

// rotate is kubelet's rotateLatestLog, with a short time-out. It returns the
// rotated log, or "" if the rotation was taken back.
func (c *crash) rotate(ctx context.Context, log string, n int) string {
	name := fmt.Sprintf("%s.%d", log, n)
	if err := os.Rename(log, name); err != nil {
		return "" // the last one's Reopen has failed half way: kubelet asks again
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if _, err := c.client.ReopenContainerLog(ctx, &runtimeapi.ReopenContainerLogRequest{ContainerId: "c1"}); err != nil {
		if err := os.Rename(name, log); err != nil {
			c.t.Error(err)
		}
		return ""
	}
	return name
}

// checkLogs reads logs in their order and compares them with the text that the
// VM has written. A line that was open at a rotation has been ended there.
func checkLogs(logs []string, text string) error {
	rest := text
	for _, name := range logs {
		b, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		lines := slices.Collect(bytes.Lines(b))
		for i, line := range lines {
			where := fmt.Sprintf("%s, record %d of %d", filepath.Base(name), i+1, len(lines))
			f := strings.SplitN(strings.TrimSuffix(string(line), "\n"), " ", 4)
			if len(f) != 4 || f[1] != "stdout" || line[len(line)-1] != '\n' {
				return fmt.Errorf("%s: not a record: %.200q", where, line)
			}
			if !strings.HasPrefix(rest, f[3]) {
				return fmt.Errorf("%s: got %.100q, want %.100q", where, f[3], rest)
			}
			rest = rest[len(f[3]):]
			switch {
			case f[2] == "P":
				if i == len(lines)-1 && rest != "" {
					return fmt.Errorf("%s: a line goes on in the next file", where)
				}
			case strings.HasPrefix(rest, "\n"):
				rest = rest[1:]
			case f[3] == "" && i == len(lines)-1:
				// The line was ended by the rotation. If its line end came
				// next, it was swallowed.
			case f[3] == "" && i > 0 && strings.HasSuffix(text[:len(text)-len(rest)], "\n"):
				return fmt.Errorf("%s: an empty line", where)
			default:
				return fmt.Errorf("%s: a line ends before %.100q", where, rest)
			}
		}
	}
	if rest != "" {
		return fmt.Errorf("%d bytes are missing: %.200q", len(rest), rest)
	}
	return nil
}

// output keeps what the proxy logs.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

func (o *output) tail() string {
	s := o.String()
	return s[max(0, len(s)-4000):]
}

var _ io.Writer = (*output)(nil)
