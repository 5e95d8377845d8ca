package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-logproxy/cri-logproxy/e2e/await"
	"github.com/cri-logproxy/cri-logproxy/e2e/cluster/box"
)

// stopTimeout is how long the proxy may take to stop. It promises 10 s.
const stopTimeout = 15 * time.Second

// Proxy is cri-logproxy as a process of its own, started and ended as often as
// one likes. Its exported fields are set before the first Start.
type Proxy struct {
	Binary string    // path of cri-logproxy
	Args   []string  // its flags, but for --listen
	Socket string    // path of the socket that it serves
	Log    io.Writer // gets what it logs; nil for nothing
	Box    *box.Box  // where it runs; nil: here
	// Activated has the socket stay while no proxy runs, as cri-logproxy.socket
	// does: who calls waits for the next one.
	Activated bool

	passed *os.File // the socket, if it is activated
	cmd    *exec.Cmd
	exited chan error // what it ended with
}

// Start starts the proxy and waits until it serves. One that is activated is not
// waited for: that is left to who calls it.
func (p *Proxy) Start(ctx context.Context) error {
	cmd := exec.Command(p.Binary, append([]string{"--listen=unix://" + p.Socket}, p.Args...)...)
	cmd.Stdout, cmd.Stderr = p.Log, p.Log
	// It is ours to stop, not the terminal's, and does not outlive us.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if p.Activated {
		if err := p.activate(cmd); err != nil {
			return fmt.Errorf("the proxy's socket: %w", err)
		}
	}
	start := cmd.Start
	if p.Box != nil {
		start = func() error { return p.Box.Start(cmd) }
	}
	if err := start(); err != nil {
		return fmt.Errorf("start the proxy: %w", err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	p.cmd, p.exited = cmd, exited
	if p.Activated {
		return nil
	}
	return await.Condition(ctx, "the proxy serves", func() (bool, error) {
		select {
		case err := <-p.exited:
			p.exited <- err
			return false, fmt.Errorf("%s has ended: %v", p.Binary, err)
		default:
		}
		conn, err := net.Dial("unix", p.Socket)
		if err != nil {
			return false, nil // not yet
		}
		return true, conn.Close()
	})
}

// activate gives a command the socket as systemd does: as descriptor 3, with the
// process' own ID, which only it can tell, in LISTEN_PID.
func (p *Proxy) activate(cmd *exec.Cmd) error {
	if p.passed == nil {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: p.Socket, Net: "unix"})
		if err != nil {
			return err
		}
		l.SetUnlinkOnClose(false)
		defer l.Close()
		if p.passed, err = l.File(); err != nil {
			return err
		}
	}
	cmd.ExtraFiles = []*os.File{p.passed}
	cmd.Env = append(os.Environ(), "LISTEN_FDS=1")
	sh, err := exec.LookPath("sh")
	cmd.Path, cmd.Args = sh, append([]string{sh, "-c", `LISTEN_PID=$$ exec "$0" "$@"`}, cmd.Args...)
	return err
}

// Awaited says whether somebody has connected while no proxy runs, to one that
// is activated.
func (p *Proxy) Awaited() (bool, error) {
	conn, err := p.passed.SyscallConn()
	if err != nil {
		return false, err
	}
	fds := []unix.PollFd{{Events: unix.POLLIN}}
	var pollErr error
	err = conn.Control(func(fd uintptr) {
		fds[0].Fd = int32(fd)
		_, pollErr = unix.Poll(fds, 0)
	})
	if errors.Is(pollErr, unix.EINTR) {
		return false, err // the next look will tell
	}
	return fds[0].Revents&unix.POLLIN != 0, errors.Join(err, pollErr)
}

// Stop ends the proxy as systemd does, and returns what it exited with.
func (p *Proxy) Stop() error { return p.end(syscall.SIGTERM) }

// Kill ends the proxy as a crash does.
func (p *Proxy) Kill() {
	_ = p.end(syscall.SIGKILL) // what it says is that it was killed
}

func (p *Proxy) end(sig syscall.Signal) error {
	if p.cmd == nil {
		return nil
	}
	defer func() { p.cmd = nil }()
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case err := <-p.exited:
		if err != nil {
			return fmt.Errorf("the proxy: %w", err)
		}
		return nil
	case <-time.After(stopTimeout):
		return errors.Join(fmt.Errorf("the proxy has not stopped within %v", stopTimeout), p.cmd.Process.Kill(), <-p.exited)
	}
}

// Close stops the proxy for good.
func (p *Proxy) Close() error {
	err := p.Stop()
	if p.passed != nil {
		err = errors.Join(err, p.passed.Close(), os.Remove(p.Socket))
		p.passed = nil
	}
	return err
}
