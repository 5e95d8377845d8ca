package box

import (
	"bufio"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-logproxy/cri-logproxy/e2e/internal/fsutil"
	"github.com/cri-logproxy/cri-logproxy/e2e/need"
)

// Name and IP of the node. Every box can have the same: none sees another.
const (
	NodeName = "node1"
	NodeIP   = "10.123.0.1"
)

// PodLogs and ContainerLogs are where kubelet has logs and the links to them, as
// the box sees it.
const (
	PodLogs       = "/var/log/pods"
	ContainerLogs = "/var/log/containers"
)

// own are the directories that a box has for itself.
var own = []string{
	PodLogs, ContainerLogs, "/run/containerd", "/run/netns", "/var/lib/cni", "/etc/cni/net.d",
}

// startTimeout and stopTimeout are a hundred times what it takes on an idle
// machine.
const (
	startTimeout = time.Minute
	stopTimeout  = 20 * time.Second
)

//go:embed init.sh
var initScript []byte

// Box is a running box.
type Box struct {
	// Dir is the box's directory, with the same path inside and outside. It goes
	// with the box.
	Dir string
	// Cgroup is the parent of the box's cgroups, as kubelet's cgroupRoot has it.
	Cgroup string

	init   *exec.Cmd
	stdin  io.Closer     // closing it ends the box
	done   chan struct{} // closed when init is gone
	waited error         // how it ended; read after done

	inside chan func() // gets what the thread in the box's namespaces shall do
	left   chan struct{}
	stop   sync.Once
	err    error // of Stop
}

// Check says what is missing on this machine, if anything: a
// [need.MissingError] for each.
func Check() error {
	return errors.Join(
		need.Root(),
		need.Command("bash", "bash"),
		need.Command("mount", "mount"),
		need.Command("ip", "iproute2"),
	)
}

// Start makes a box. ctx bounds the start only.
func Start(ctx context.Context) (*Box, error) {
	b, err := start(ctx)
	if err != nil {
		return nil, fmt.Errorf("box: %w", err)
	}
	return b, nil
}

func start(ctx context.Context) (*Box, error) {
	if err := Check(); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("/tmp", "box") // short: it holds sockets
	if err != nil {
		return nil, err
	}
	b := &Box{
		Dir: dir, Cgroup: "/cri-logproxy-" + filepath.Base(dir),
		done: make(chan struct{}), inside: make(chan func()), left: make(chan struct{}),
	}
	if err := b.launch(ctx); err != nil {
		return nil, errors.Join(err, b.Stop())
	}
	return b, nil
}

func (b *Box) launch(ctx context.Context) error {
	close(b.left) // nobody is inside yet
	if err := os.Chmod(b.Dir, 0o755); err != nil {
		return err
	}
	for _, dir := range own {
		if err := os.MkdirAll(b.Path(dir), 0o755); err != nil {
			return err
		}
	}
	if err := b.makeCgroups(); err != nil {
		return err
	}
	script := filepath.Join(b.Dir, "init.sh")
	if err := fsutil.WriteFile(script, initScript, 0o755); err != nil {
		return err
	}
	complaints, err := os.Create(filepath.Join(b.Dir, "init.log"))
	if err != nil {
		return err
	}
	defer complaints.Close()
	cmd := exec.Command("bash", append([]string{script, b.Dir, b.Cgroup[1:], NodeName, NodeIP}, own...)...)
	cmd.Dir, cmd.Stderr = "/", complaints
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid:     true, // ^C at a terminal is for the harness to handle
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
	}
	if b.stdin, err = cmd.StdinPipe(); err != nil {
		return err
	}
	stdout, w, err := os.Pipe() // not StdoutPipe: Wait would close it before it is read
	if err != nil {
		return err
	}
	defer stdout.Close()
	cmd.Stdout = w
	err = cmd.Start()
	w.Close()
	if err != nil {
		return err
	}
	b.init = cmd
	go func() {
		b.waited = cmd.Wait()
		close(b.done)
	}()
	if err := awaitReady(ctx, stdout); err != nil {
		text, _ := os.ReadFile(complaints.Name())
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(string(text)))
	}
	return b.enter()
}

// awaitReady waits for the line that init writes when it has set all up.
func awaitReady(ctx context.Context, stdout *os.File) error {
	deadline := time.Now().Add(startTimeout)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	if err := stdout.SetReadDeadline(deadline); err != nil {
		return err
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if line != "ready\n" {
		return fmt.Errorf("init said %q (%v)", line, err)
	}
	return nil
}

// enter starts the thread that lives in the box. What it starts is born there,
// as a child of this process.
func (b *Box) enter() error {
	entered := make(chan error)
	b.left = make(chan struct{})
	go func() {
		defer close(b.left)
		runtime.LockOSThread() // and never unlocked: nobody else can use this thread
		err := joinNamespaces(b.init.Process.Pid)
		entered <- err
		if err != nil {
			return
		}
		for f := range b.inside {
			f()
		}
	}()
	return <-entered
}

// joinNamespaces moves the calling thread, its future children for the PID
// namespace, into those of process pid.
func joinNamespaces(pid int) error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil { // or it cannot change its mounts alone
		return fmt.Errorf("unshare: %w", err)
	}
	var fds []int
	for _, ns := range []string{"ipc", "uts", "net", "pid", "mnt"} {
		path := fmt.Sprintf("/proc/%d/ns/%s", pid, ns)
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return &os.PathError{Op: "open", Path: path, Err: err}
		}
		defer unix.Close(fd)
		fds = append(fds, fd)
	}
	for _, fd := range fds {
		if err := unix.Setns(fd, 0); err != nil {
			return fmt.Errorf("setns: %w", err)
		}
	}
	return nil
}

// do runs f on the thread in the box.
func (b *Box) do(f func() error) error {
	result := make(chan error, 1)
	select {
	case b.inside <- func() { result <- f() }:
		return <-result
	case <-b.left:
		return errors.New("box: it has ended")
	}
}

// Start starts a command inside. The command's process ID is that of the
// outside. It is killed when the box ends, and so with this process.
func (b *Box) Start(cmd *exec.Cmd) error {
	if cmd.Dir == "" {
		cmd.Dir = "/"
	}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = !cmd.SysProcAttr.Setsid // ^C at a terminal is for the harness to handle
	cmd.SysProcAttr.Pdeathsig = 0                     // it dies with init, and sees no parent here, which Go takes for dead
	return b.do(cmd.Start)
}

// Dial connects to an address inside.
func (b *Box) Dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	err = b.do(func() (err error) {
		var d net.Dialer
		conn, err = d.DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// Listen listens at an address inside. The listener is this process'.
func (b *Box) Listen(network, address string) (l net.Listener, err error) {
	err = b.do(func() (err error) {
		l, err = net.Listen(network, address)
		return err
	})
	return l, err
}

// Path returns where a file below one of the box's own directories lies for
// everybody else.
func (b *Box) Path(inside string) string { return filepath.Join(b.Dir, "fs", inside) }

// Stop ends all that runs in the box and removes its directory. It may be called
// again.
func (b *Box) Stop() error {
	b.stop.Do(func() {
		close(b.inside)
		<-b.left
		if b.init != nil {
			b.stdin.Close()
			select {
			case <-b.done:
			case <-time.After(stopTimeout):
				b.err = fmt.Errorf("box: %s did not end within %v, killed", b.Dir, stopTimeout)
				_ = b.init.Process.Kill() // what it says is that it is gone by now
				<-b.done
			}
		}
		b.err = errors.Join(b.err, b.removeCgroups(), os.RemoveAll(b.Dir))
	})
	return b.err
}
