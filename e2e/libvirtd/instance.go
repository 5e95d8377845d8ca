package libvirtd

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/digitalocean/go-libvirt"
	"github.com/digitalocean/go-libvirt/socket/dialers"

	"github.com/cri-logproxy/cri-logproxy/e2e/await"
)

// Who writes a serial port of type file or a <log>.
const (
	StdioFile = "file" // QEMU itself, without any limit: Virtlet's setting
	StdioLogd = "logd" // virtlogd, which rotates: libvirt's default
)

// maxSocketPath is the longest path that a unix socket's address can hold.
const maxSocketPath = 107

// startTimeout bounds Start: a cold start on an idle machine takes two seconds.
const startTimeout = 90 * time.Second

// stopTimeout is how long Stop waits before it kills.
const stopTimeout = 10 * time.Second

// Options of an instance. The zero value is fit for use.
type Options struct {
	Dir          string // state; default: a new directory below /tmp that goes with the instance
	StdioHandler string // StdioFile (default) or StdioLogd
	VirtlogdConf string // more lines for virtlogd.conf, such as "max_size = 65536"
}

// Instance is a running libvirt.
type Instance struct {
	Dir    string // holds etc, run and var as the daemons see them, and their logs
	Socket string // libvirtd's socket, as the host sees it

	remove bool // Dir goes with the instance
	cmd    *exec.Cmd
	stdin  io.Closer     // closing it ends the instance
	done   chan struct{} // closed when the instance's processes are gone
	waited error         // how they ended; read after done

	stop    sync.Once
	stopErr error
}

// Start starts an instance and waits until it answers. ctx bounds the start
// only: the instance lives until Stop, or until this process ends.
func Start(ctx context.Context, o Options) (*Instance, error) {
	in, err := start(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("libvirtd: %w", err)
	}
	return in, nil
}

func start(ctx context.Context, o Options) (*Instance, error) {
	if err := Check(); err != nil {
		return nil, err
	}
	o.StdioHandler = cmp.Or(o.StdioHandler, StdioFile)
	if o.StdioHandler != StdioFile && o.StdioHandler != StdioLogd {
		return nil, fmt.Errorf("stdio handler %q: want %q or %q", o.StdioHandler, StdioFile, StdioLogd)
	}
	dir, remove, err := chooseDir(o.Dir)
	if err != nil {
		return nil, err
	}
	in := &Instance{
		Dir:    dir,
		remove: remove,
		Socket: filepath.Join(dir, "run/libvirt/libvirt-sock"),
		done:   make(chan struct{}),
	}
	if err := in.launch(o); err != nil {
		return nil, errors.Join(err, in.cleanUp())
	}
	if err := in.ready(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("%w; its log: %s", err, in.logs()), in.Stop())
	}
	keepCapabilities(dir)
	return in, nil
}

// chooseDir returns the directory of an instance and whether it goes with it.
func chooseDir(dir string) (string, bool, error) {
	if dir == "" {
		dir, err := os.MkdirTemp("/tmp", "lv") // short: see maxSocketPath
		return dir, true, err
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", false, err
	}
	if n := len(filepath.Join(dir, "run/libvirt/libvirt-sock")); n > maxSocketPath {
		return "", false, fmt.Errorf("directory %s: the socket's path has %d bytes, more than %d: take a shorter one", dir, n, maxSocketPath)
	}
	for _, tree := range []string{"/etc/", "/run/", "/var/"} {
		if strings.HasPrefix(dir+"/", tree) {
			return "", false, fmt.Errorf("directory %s: the daemons have a %s of their own: take one elsewhere", dir, tree)
		}
	}
	return dir, false, os.MkdirAll(dir, 0o755)
}

// launch starts the instance's processes.
func (in *Instance) launch(o Options) error {
	if err := layOut(in.Dir, o); err != nil {
		return err
	}
	seedCapabilities(in.Dir)
	output, err := os.Create(in.path("output"))
	if err != nil {
		return err
	}
	defer output.Close()
	args := []string{
		"--mount", "--pid", "--fork", "--kill-child=SIGKILL", "--mount-proc", "--propagation", "private",
		"bash", in.path("init.sh"), in.Dir,
	}
	if in.remove {
		args = append(args, "remove")
	}
	in.cmd = exec.Command("unshare", args...)
	in.cmd.Dir = "/"
	in.cmd.Stdout, in.cmd.Stderr = output, output
	in.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // ^C at a terminal is for the harness to handle
	if in.stdin, err = in.cmd.StdinPipe(); err != nil {
		return err
	}
	if err := in.cmd.Start(); err != nil {
		return err
	}
	go func() {
		in.waited = in.cmd.Wait()
		close(in.done)
	}()
	return nil
}

// ready waits until libvirtd has answered a call that needs its QEMU driver.
func (in *Instance) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	var last error
	err := await.Condition(ctx, "libvirtd", func() (bool, error) {
		select {
		case <-in.done:
			return false, fmt.Errorf("it ended: %w", in.waited)
		default:
		}
		last = in.probe()
		return last == nil, nil
	})
	if err != nil && last != nil {
		err = fmt.Errorf("%w (%w)", err, last)
	}
	return err
}

func (in *Instance) probe() error {
	l, err := in.Dial()
	if err != nil {
		return err
	}
	_, err = l.ConnectGetCapabilities()
	return errors.Join(err, l.Disconnect())
}

// Stop ends the instance with all its virtual machines. It may be called
// again.
func (in *Instance) Stop() error {
	in.stop.Do(func() {
		in.stdin.Close()
		select {
		case <-in.done:
		case <-time.After(stopTimeout):
			in.stopErr = fmt.Errorf("libvirtd: %s did not end within %v, killed", in.Dir, stopTimeout)
			_ = in.cmd.Process.Kill() // its --kill-child takes all the others along
			<-in.done
		}
		in.stopErr = errors.Join(in.stopErr, in.cleanUp())
	})
	return in.stopErr
}

// cleanUp removes what is left of the directory. The instance removes it
// itself, but cannot if it was killed, or if somebody mounted something there.
func (in *Instance) cleanUp() error {
	if !in.remove {
		return nil
	}
	return os.RemoveAll(in.Dir)
}

// Done is closed when the instance has ended, for whatever reason.
func (in *Instance) Done() <-chan struct{} { return in.done }

// URI returns what libvirt's own programs call the instance.
func (in *Instance) URI() string { return "qemu+unix:///system?socket=" + in.Socket }

// Dial returns a connected client, which the caller disconnects.
func (in *Instance) Dial() (*libvirt.Libvirt, error) {
	l := libvirt.NewWithDialer(dialers.NewLocal(dialers.WithSocket(in.Socket), dialers.WithLocalTimeout(5*time.Second)))
	if err := l.Connect(); err != nil {
		return nil, fmt.Errorf("connect to %s: %w", in.Socket, err)
	}
	return l, nil
}

// Virsh runs virsh on the instance and returns what it printed.
func (in *Instance) Virsh(ctx context.Context, args ...string) (string, error) {
	return run(ctx, "virsh", append([]string{"--connect", in.URI()}, args...)...)
}

// InNamespace runs a command where the daemons run: to stop one of them, to
// mount a small file system, to see paths as they see them. Process IDs, also
// those in Dir's pid files, are the namespace's own.
func (in *Instance) InNamespace(ctx context.Context, args ...string) (string, error) {
	pid, err := in.pid1()
	if err != nil {
		return "", fmt.Errorf("libvirtd: find the namespace: %w", err)
	}
	return run(ctx, "nsenter", append([]string{"--target", pid, "--mount", "--pid", "--"}, args...)...)
}

// RestartLibvirtd kills libvirtd (SIGKILL) and starts it again, as a crash and
// a supervisor would. The virtual machines go on; connections break.
func (in *Instance) RestartLibvirtd(ctx context.Context) error {
	if err := in.Kill(ctx, "libvirtd"); err != nil {
		return err
	}
	_, err := in.InNamespace(ctx, "env", "LIBVIRT_DRIVER_DIR="+in.path("drv"),
		libvirtdPath, "--daemon", "--pid-file", in.path("libvirtd.pid"))
	if err == nil {
		err = in.ready(ctx)
	}
	if err != nil {
		return fmt.Errorf("libvirtd: restart: %w", err)
	}
	return nil
}

// Kill ends one of the daemons, "libvirtd" or "virtlogd", with SIGKILL and
// waits until it is gone.
func (in *Instance) Kill(ctx context.Context, daemon string) error {
	const script = `pid=$(cat "$0") && kill -KILL $pid && while kill -0 $pid 2>/dev/null; do sleep 0.02; done`
	if _, err := in.InNamespace(ctx, "sh", "-c", script, in.path(daemon+".pid")); err != nil {
		return fmt.Errorf("libvirtd: kill %s: %w", daemon, err)
	}
	return nil
}

// pid1 returns the host's ID of the namespace's first process, unshare's only
// child.
func (in *Instance) pid1() (string, error) {
	pid := in.cmd.Process.Pid
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return "", err
	}
	children := strings.Fields(string(b))
	if len(children) != 1 {
		return "", fmt.Errorf("process %d has %d children, want one", pid, len(children))
	}
	return children[0], nil
}

func (in *Instance) path(name string) string { return filepath.Join(in.Dir, name) }

// logs returns what the daemons complained about.
func (in *Instance) logs() string {
	var all bytes.Buffer
	for _, name := range []string{"output", "libvirtd.log", "virtlogd.log"} {
		b, _ := os.ReadFile(in.path(name))
		all.Write(b)
	}
	return strings.TrimSpace(all.String())
}

func run(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%v: %w: %s", cmd.Args, err, bytes.TrimSpace(out))
	}
	return string(out), nil
}
