package libvirtd

import (
	"context"
	"errors"
	"fmt"
	"os/exec"

	"github.com/cri-logproxy/cri-logproxy/e2e/terminal"
)

// connected is what virsh prints once it has the domain's console.
const connected = "Escape character is"

// detach is the key that ends virsh console: ^].
const detach = "\x1d"

// Console is "virsh console" on a pseudo-terminal, driven by a program.
type Console struct{ *terminal.Terminal }

// OpenConsole connects to the console of a running domain, as "virsh console
// DOMAIN" does; extra arguments such as "--force" go before the name. ctx
// bounds the connecting only. The caller must Close the Console.
func (in *Instance) OpenConsole(ctx context.Context, domain string, extra ...string) (*Console, error) {
	args := append([]string{"--connect", in.URI(), "console"}, extra...)
	t, err := terminal.Start(exec.Command("virsh", append(args, domain)...))
	if err != nil {
		return nil, err
	}
	c := &Console{t}
	if err := c.Expect(ctx, connected); err != nil {
		return nil, errors.Join(fmt.Errorf("virsh console %s: %w", domain, err), c.Close())
	}
	return c, nil
}

// Close detaches with ^]. It may be called again.
func (c *Console) Close() error { return c.Terminal.Close(detach) }
