package main

import (
	"context"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-logproxy/cri-logproxy/e2e/await"
	"github.com/cri-logproxy/cri-logproxy/e2e/guest"
	"github.com/cri-logproxy/cri-logproxy/e2e/node"
	"github.com/cri-logproxy/cri-logproxy/e2e/pod"
	"github.com/cri-logproxy/cri-logproxy/e2e/terminal"
	"github.com/cri-logproxy/cri-logproxy/e2e/vmruntime"
	"github.com/cri-logproxy/cri-logproxy/proxy/logmap"
)

const (
	// visitTimeout bounds what is done at the console. It takes about 5 s.
	visitTimeout = time.Minute
	// keyTime is the time from key to key of who types there.
	keyTime = 50 * time.Millisecond
	// escapeKey leaves virsh console: ^].
	escapeKey = "\x1d"
)

// questions are typed at the console; an answer is the beginning of a line.
var questions = []struct{ command, answer string }{
	{"uname -sr", "Linux "},
	{"echo " + greeting, greeting},
}

const greeting = "hello from the console"

// The columns.
const (
	atConsole = iota
	atLog
)

// both is the story of mode both: somebody works at the console of a VM, and all
// of it is in the log, too.
func (d *demo) both(ctx context.Context) error {
	d.step("node: libvirtd, a VM runtime with ptys, cri-logproxy --log-mode=both; we play kubelet")
	return d.onNode(ctx, node.Options{PTY: true, LogMode: logmap.ModeBoth}, func(n *node.Node) error { return d.bothOn(ctx, n) })
}

func (d *demo) bothOn(ctx context.Context, n *node.Node) error {
	d.detail("kubelet's --container-runtime-endpoint   unix://%s", n.Socket)
	d.detail("the proxy's --runtime-endpoint           unix://%s", n.RuntimeSocket)
	d.detail("--libvirt-socket                         unix://%s", n.Libvirt.Socket)
	d.detail("--vm-log-location (to libvirtd)          %s", node.VMLogLocation)
	d.detail("--vm-log-dir (the same, on this host)    %s", n.RawLogs)

	p, err := pod.New(ctx, n.Socket, n.PodLogs, podName)
	if err != nil {
		return err
	}
	defer p.CRI.Close(context.WithoutCancel(ctx))
	d.step("RunPodSandbox, CreateContainer: a VM whose serial port is a pty, which nobody logs")
	if err := p.Run(ctx); err != nil {
		return err
	}
	// printk: once it has booted, the kernel talks to nobody in between.
	if err := p.Create(ctx, 0, append(bootArgs(), "sysctl.kernel.printk=1")); err != nil {
		return err
	}
	d.step("StartContainer: the proxy adds a log, and the VM boots; nobody is at its console")
	if err := p.Start(ctx); err != nil {
		return err
	}
	element, err := logElement(ctx, n, p)
	if err != nil {
		return err
	}
	d.detail("libvirt has: %s", element)
	f, err := filesOf(ctx, n, p)
	if err != nil {
		return err
	}

	v := newView(d.out, d.screen, [2]string{atConsole: "virsh console", atLog: "kubectl logs -f"})
	defer v.close()
	d.out = v
	r := follow(ctx, p, v.column(atLog))
	if err := r.waitText(ctx, guest.LoginPrompt); err != nil {
		return err
	}
	d.step("the whole boot is in the log. Now somebody comes to the console:")
	d.detail("cri-logproxy console default/%s", podName)
	said, err := d.visit(ctx, n, r, v.column(atConsole))
	if err != nil {
		return err
	}
	if state, err := p.State(ctx); err != nil || state != cri.ContainerState_CONTAINER_RUNNING {
		return fmt.Errorf("after ^] the VM is %v, not running: %w", state, err)
	}
	d.step("^] has left the console; the VM runs on. StopContainer")
	if err := p.Stop(ctx, 0); err != nil {
		return err
	}
	if err := r.end(); err != nil {
		return err
	}
	v.close()
	d.step("the reader has seen the exit. All that the console showed, %d bytes, is in the log:", len(said))
	if err := d.greetingIn(f); err != nil {
		return err
	}
	d.step("RemoveContainer, RemovePodSandbox: both logs and the proxy's record are deleted")
	return remove(ctx, p, f)
}

// logElement is what libvirt has in the VM's domain about its log.
func logElement(ctx context.Context, n *node.Node, p *pod.Pod) (string, error) {
	domain := vmruntime.DomainName(p.ID, pod.ContainerName)
	xml, err := n.Libvirt.Virsh(ctx, "dumpxml", domain)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(xml) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "<log ") {
			return line, nil
		}
	}
	return "", fmt.Errorf("domain %s has no <log>:\n%s", domain, xml)
}

// visit has somebody come to the console, shown on screen, ask the VM something,
// wait until all that they see is in the log, too, and leave. It returns what
// they saw.
func (d *demo) visit(ctx context.Context, n *node.Node, r *reader, screen io.Writer) (said string, err error) {
	ctx, cancel := context.WithTimeout(ctx, visitTimeout)
	defer cancel()
	t, err := terminal.Start(exec.Command(d.proxy, "console", "--state-dir="+n.StateDir, "--libvirt-socket="+n.Libvirt.Socket, "default/"+podName))
	if err != nil {
		return "", err
	}
	stop := func() {}
	defer func() {
		stop()
		if closed := t.Close(escapeKey); err == nil {
			err = closed
		}
	}()
	const connected = "Connected to domain"
	if err := t.Expect(ctx, connected); err != nil {
		return "", err
	}
	// Before it, virsh complains where there is no polkit.
	stop = mirror(t, strings.Index(t.Output(), connected), screen)
	for _, shown := range []string{"Escape character is", "\n"} {
		if err := t.Expect(ctx, shown); err != nil {
			return "", err
		}
	}
	greeted := len(t.Output())
	// virsh now sets up its terminal, which forgets what was typed before.
	if err := await.Condition(ctx, "virsh's terminal", func() (bool, error) {
		s, err := t.State()
		return s.Lflag&unix.ICANON == 0, err
	}); err != nil {
		return "", err
	}
	if err := typeIn(ctx, t, ""); err != nil { // logs in
		return "", err
	}
	for _, q := range questions {
		if err := t.Expect(ctx, guest.Prompt); err != nil {
			return "", err
		}
		if err := typeIn(ctx, t, q.command); err != nil {
			return "", err
		}
		for _, shown := range []string{q.command, "\n" + q.answer} {
			if err := t.Expect(ctx, shown); err != nil {
				return "", err
			}
		}
	}
	if err := t.Expect(ctx, guest.Prompt); err != nil {
		return "", err
	}
	said = t.Output()[greeted:]
	if err := r.waitText(ctx, strings.ReplaceAll(said, "\r\n", "\n")); err != nil {
		return "", err
	}
	if err := t.Send(escapeKey); err != nil {
		return "", err
	}
	return said, t.Wait(ctx)
}

// typeIn types a line as a person does.
func typeIn(ctx context.Context, t *terminal.Terminal, line string) error {
	for _, key := range line + "\r" {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(keyTime):
		}
		if err := t.Send(string(key)); err != nil {
			return err
		}
	}
	return nil
}

// mirror shows on screen what a terminal shows, but for the first bytes, until it
// is stopped.
func mirror(t *terminal.Terminal, shown int, screen io.Writer) (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(await.Interval)
		defer tick.Stop()
		for last := false; !last; {
			select {
			case <-tick.C:
			case <-done:
				last = true
			}
			if all := t.Output(); len(all) > shown {
				_, _ = io.WriteString(screen, all[shown:]) // who gives screen hears of errors
				shown = len(all)
			}
		}
	}()
	return func() {
		close(done)
		<-ended
	}
}

// greetingIn shows the VM's greeting as both files have it.
func (d *demo) greetingIn(f files) error {
	raw, err := lastLine(f.raw, func(line string) bool { return strings.HasSuffix(line, greeting+"\r\n") })
	if err != nil {
		return err
	}
	log, err := lastLine(f.log, func(line string) bool {
		// A slow VM's line may be there in parts.
		_, end, ok := strings.Cut(strings.TrimSpace(line), " stdout F ")
		return ok && end != "" && strings.HasSuffix(greeting, end)
	})
	if err != nil {
		return err
	}
	d.detail("raw log        %s", f.raw)
	d.detail("               %q", raw)
	d.detail("container log  %s", f.log)
	d.detail("               %s", readable(log))
	return nil
}

// lastLine returns the last of a file's lines that is wanted.
func lastLine(path string, wanted func(string) bool) (string, error) {
	lines, err := readLines(path)
	if err != nil {
		return "", err
	}
	for _, line := range slices.Backward(lines) {
		if wanted(line) {
			return line, nil
		}
	}
	return "", fmt.Errorf("%q is not in %s", greeting, path)
}
