package libvirtd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"time"

	"github.com/creack/pty"
)

// connected is what virsh prints once it has the domain's console.
const connected = "Escape character is"

// detach is the key that ends virsh console: ^].
const detach = "\x1d"

// closeTimeout is how long Close waits for virsh to obey the key.
const closeTimeout = 10 * time.Second

// Console is "virsh console" on a pseudo-terminal, driven by a program.
type Console struct {
	cmd *exec.Cmd
	pty *os.File

	ended chan struct{} // closed when virsh has ended and its output is read
	wait  error         // how it ended; read after ended

	mu    sync.Mutex
	out   []byte
	taken int           // how much of out Expect has gone past
	more  chan struct{} // closed and replaced when out grows

	close    sync.Once
	closeErr error
}

// OpenConsole connects to the console of a running domain, as "virsh console
// DOMAIN" does; extra arguments such as "--force" go before the name. ctx
// bounds the connecting only.
func (in *Instance) OpenConsole(ctx context.Context, domain string, extra ...string) (*Console, error) {
	args := append([]string{"--connect", in.URI(), "console"}, extra...)
	c := &Console{
		cmd:   exec.Command("virsh", append(args, domain)...),
		ended: make(chan struct{}),
		more:  make(chan struct{}),
	}
	var err error
	if c.pty, err = pty.Start(c.cmd); err != nil {
		return nil, fmt.Errorf("virsh console %s: %w", domain, err)
	}
	go c.read()
	if err := c.Expect(ctx, connected); err != nil {
		return nil, errors.Join(fmt.Errorf("virsh console %s: %w", domain, err), c.Close())
	}
	return c, nil
}

// read takes virsh's output until virsh ends: the pseudo-terminal then gives
// EIO.
func (c *Console) read() {
	buf := make([]byte, 4096)
	for {
		n, err := c.pty.Read(buf)
		c.mu.Lock()
		c.out = append(c.out, buf[:n]...)
		close(c.more)
		c.more = make(chan struct{})
		c.mu.Unlock()
		if err != nil {
			break
		}
	}
	c.wait = c.cmd.Wait()
	close(c.ended)
}

// Send types s. A return key is "\r".
func (c *Console) Send(s string) error {
	if _, err := io.WriteString(c.pty, s); err != nil {
		return fmt.Errorf("virsh console: send %q: %w", s, err)
	}
	return nil
}

// Expect waits until s appears in the output that no earlier Expect has gone
// past, and goes past it.
func (c *Console) Expect(ctx context.Context, s string) error {
	for {
		found, more := c.take(s)
		if found {
			return nil
		}
		select {
		case <-more:
		case <-c.ended:
			if found, _ := c.take(s); found {
				return nil
			}
			return fmt.Errorf("virsh ended before %q came: %v; output %q", s, c.wait, c.Output())
		case <-ctx.Done():
			return fmt.Errorf("no %q: %w; output %q", s, context.Cause(ctx), c.Output())
		}
	}
}

// take goes past s if it is there, else returns a channel that is closed when
// there is more to look at.
func (c *Console) take(s string) (bool, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := bytes.Index(c.out[c.taken:], []byte(s))
	if i < 0 {
		return false, c.more
	}
	c.taken += i + len(s)
	return true, nil
}

// Output returns everything that virsh has printed so far.
func (c *Console) Output() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return string(c.out)
}

// Close detaches with ^]. A virsh that has ended before is none of its
// business. It may be called again.
func (c *Console) Close() error {
	c.close.Do(func() {
		defer c.pty.Close()
		_ = c.Send(detach)
		select {
		case <-c.ended:
		case <-time.After(closeTimeout):
			c.closeErr = fmt.Errorf("virsh console: did not end within %v of ^], killed", closeTimeout)
			_ = c.cmd.Process.Kill()
			<-c.ended
		}
	})
	return c.closeErr
}
