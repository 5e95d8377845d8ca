// Package terminal runs a program on a pseudo-terminal and plays its user.
package terminal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// closeTimeout is how long Close waits for the program to obey.
const closeTimeout = 10 * time.Second

// Terminal is a program on a pseudo-terminal.
type Terminal struct {
	cmd  *exec.Cmd
	pty  *os.File
	tty  *os.File // keeps the terminal, and its state, when the program has ended
	name string

	ended chan struct{} // closed when the program has ended
	wait  error         // how it ended; read after ended

	mu    sync.Mutex
	out   []byte
	taken int           // how much of out Expect has gone past
	more  chan struct{} // closed and replaced when out grows

	reading sync.WaitGroup
	close   sync.Once
}

// Start runs cmd. The caller must Close the Terminal.
func Start(cmd *exec.Cmd) (*Terminal, error) { return StartBy((*exec.Cmd).Start, cmd) }

// StartBy is Start for a command that start has to start, in a box for instance.
func StartBy(start func(*exec.Cmd) error, cmd *exec.Cmd) (*Terminal, error) {
	t := &Terminal{cmd: cmd, name: filepath.Base(cmd.Path), ended: make(chan struct{}), more: make(chan struct{})}
	var err error
	if t.pty, t.tty, err = pty.Open(); err != nil {
		return nil, err
	}
	if err := pty.Setsize(t.pty, &pty.Winsize{Rows: 24, Cols: 80}); err != nil {
		return nil, errors.Join(err, t.closeFiles())
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = t.tty, t.tty, t.tty
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true, Setctty: true}
	if err := start(cmd); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", t.name, err), t.closeFiles())
	}
	t.reading.Go(t.read)
	go func() {
		t.wait = cmd.Wait()
		close(t.ended)
	}()
	return t, nil
}

func (t *Terminal) closeFiles() error { return errors.Join(t.tty.Close(), t.pty.Close()) }

// read takes the output until the terminal is closed.
func (t *Terminal) read() {
	buf := make([]byte, 4096)
	for {
		n, err := t.pty.Read(buf)
		t.mu.Lock()
		t.out = append(t.out, buf[:n]...)
		close(t.more)
		t.more = make(chan struct{})
		t.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// Send types s. A return key is "\r".
func (t *Terminal) Send(s string) error {
	if _, err := io.WriteString(t.pty, s); err != nil {
		return fmt.Errorf("%s: send %q: %w", t.name, s, err)
	}
	return nil
}

// Expect waits until s appears in the output that no earlier Expect has gone
// past, and goes past it.
func (t *Terminal) Expect(ctx context.Context, s string) error {
	ended := t.ended
	for {
		found, more := t.take(s)
		if found {
			return nil
		}
		select {
		case <-more:
		case <-ended:
			// What it wrote last may not have been read yet.
			select {
			case <-more:
			case <-time.After(time.Second):
				return fmt.Errorf("%s ended before %q came: %v; output %q", t.name, s, t.wait, t.Output())
			}
		case <-ctx.Done():
			return fmt.Errorf("%s: no %q: %w; output %q", t.name, s, context.Cause(ctx), t.Output())
		}
	}
}

// take goes past s if it is there, else returns a channel that is closed when
// there is more to look at.
func (t *Terminal) take(s string) (bool, <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := bytes.Index(t.out[t.taken:], []byte(s))
	if i < 0 {
		return false, t.more
	}
	t.taken += i + len(s)
	return true, nil
}

// Output returns everything that was shown so far.
func (t *Terminal) Output() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.out)
}

// Signal sends the program a signal.
func (t *Terminal) Signal(sig os.Signal) error { return t.cmd.Process.Signal(sig) }

// Wait waits until the program has ended, and returns what Cmd.Wait does.
func (t *Terminal) Wait(ctx context.Context) error {
	select {
	case <-t.ended:
		return t.wait
	case <-ctx.Done():
		return fmt.Errorf("%s has not ended: %w", t.name, context.Cause(ctx))
	}
}

// State returns the terminal's settings.
func (t *Terminal) State() (unix.Termios, error) {
	state, err := unix.IoctlGetTermios(int(t.tty.Fd()), unix.TCGETS)
	if err != nil {
		return unix.Termios{}, fmt.Errorf("settings of the terminal: %w", err)
	}
	return *state, nil
}

// Close types farewell, and kills the program if that does not end it. It may
// be called again.
func (t *Terminal) Close(farewell string) (err error) {
	t.close.Do(func() {
		_ = t.Send(farewell) // it may have ended before
		select {
		case <-t.ended:
		case <-time.After(closeTimeout):
			err = fmt.Errorf("%s: did not end within %v of %q, killed", t.name, closeTimeout, farewell)
			_ = t.cmd.Process.Kill()
			<-t.ended
		}
		err = errors.Join(err, t.closeFiles())
		t.reading.Wait()
	})
	return err
}
