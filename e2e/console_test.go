package e2e

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/cri-logproxy/cri-logproxy/e2e/guest"
	"github.com/cri-logproxy/cri-logproxy/e2e/node"
	"github.com/cri-logproxy/cri-logproxy/e2e/terminal"
	"github.com/cri-logproxy/cri-logproxy/proxy"
	"github.com/cri-logproxy/cri-logproxy/proxy/logmap"
)

// consoleCommand is `cri-logproxy console` with these arguments.
func (r *rig) consoleCommand(args ...string) *exec.Cmd {
	return exec.Command(proxyBinary, append([]string{"console", "--state-dir=" + r.StateDir, "--libvirt-socket=" + r.Libvirt.Socket}, args...)...)
}

func (r *rig) onTerminal(cmd *exec.Cmd) *terminal.Terminal {
	r.t.Helper()
	term, err := terminal.Start(cmd)
	r.must(err)
	r.t.Cleanup(func() { term.Close("") })
	return term
}

// refused runs a console command that must fail and say all of want, in that
// order.
func (r *rig) refused(cmd *exec.Cmd, want ...string) {
	r.t.Helper()
	term := r.onTerminal(cmd)
	before, err := term.State()
	r.must(err)
	if err := term.Wait(r.ctx); err == nil {
		r.t.Errorf("%q succeeded", cmd.Args)
	}
	if after, err := term.State(); err != nil || after != before {
		r.t.Errorf("%q changed the terminal: %v", cmd.Args, err)
	}
	for _, text := range want {
		r.must(term.Expect(r.ctx, text))
	}
}

// prompt has a guest's shell show its prompt.
func (r *rig) prompt(term *terminal.Terminal) {
	r.t.Helper()
	for {
		// virsh throws away what is typed before it has set the terminal up.
		r.must(term.Send("\r"))
		ctx, cancel := context.WithTimeout(r.ctx, 2*time.Second)
		err := term.Expect(ctx, guest.Prompt)
		cancel()
		if err == nil {
			return
		}
		if r.ctx.Err() != nil || ctx.Err() == nil {
			r.t.Fatal(err)
		}
	}
}

func (r *rig) wantText(what, text string, parts ...string) {
	r.t.Helper()
	for _, want := range parts {
		if !strings.Contains(text, want) {
			r.t.Errorf("%s: %q lacks %q", what, text, want)
		}
	}
}

// TestConsoleCommand drives `cri-logproxy console` by a scripted terminal.
func TestConsoleCommand(t *testing.T) {
	r := newNode(t, node.Options{PTY: true, LogMode: logmap.ModeBoth})
	r.refused(r.consoleCommand("default/nothing"), `there is no VM "default/nothing": none is on record in `+r.StateDir)
	vm := r.addPod("one")
	b := guest.Boot{Marker: "one"}
	vm.boot(0, b)
	vm.waitLog(b.ReadyLine())

	byPod := vm.onTerminal(vm.consoleCommand("default/one"))
	before, err := byPod.State()
	r.must(err)
	r.must(byPod.Expect(r.ctx, "Escape character is ^]"))
	r.prompt(byPod)
	r.must(byPod.Send("echo typed-$((40+2))\r"))
	r.must(byPod.Expect(r.ctx, "echo typed"))
	r.must(byPod.Expect(r.ctx, "typed-42"))
	vm.waitLog("\ntyped-42\n")

	// Somebody else wants it.
	vm.refused(vm.consoleCommand(vm.ID[:8]), "somebody else is on this console: --force throws them off")
	forced := vm.onTerminal(vm.consoleCommand("--force", vm.ID))
	r.must(forced.Expect(r.ctx, "Escape character is ^]"))
	if err := byPod.Wait(r.ctx); err == nil {
		t.Log("the one that was thrown off ended without an error")
	}
	if after, err := byPod.State(); err != nil || after != before {
		t.Errorf("who was thrown off has a changed terminal: %v", err)
	}
	r.prompt(forced)
	r.must(forced.Send("\x1d"))
	r.must(forced.Wait(r.ctx))
	if after, err := forced.State(); err != nil || after != before {
		t.Errorf("the terminal is changed: %v", err)
	}

	// A signal ends it, virsh too, and the terminal is as it was.
	killed := vm.onTerminal(vm.consoleCommand("default/one/vm"))
	r.must(killed.Expect(r.ctx, "Escape character is ^]"))
	r.must(killed.Signal(os.Interrupt))
	if err := killed.Wait(r.ctx); err == nil {
		t.Error("the console command that got a signal ended without an error")
	}
	if after, err := killed.State(); err != nil || after != before {
		t.Errorf("after a signal the terminal is changed: %v", err)
	}
	again := vm.onTerminal(vm.consoleCommand("default/one"))
	r.must(again.Expect(r.ctx, "Escape character is ^]"))
	r.must(again.Close("\x1d"))

	noVirsh := vm.consoleCommand("default/one")
	noVirsh.Env = append(os.Environ(), "PATH=/nowhere")
	vm.refused(noVirsh, "virsh is not installed here", "virsh -c 'qemu+unix:///system?socket="+r.Libvirt.Socket+"' console "+vm.domain())
	vm.refused(vm.consoleCommand("default/two"), `there is no VM "default/two"; there are:`, vm.ID+"  default/one vm, mode both")

	fileOnly := r.addPodWith("files", map[string]string{proxy.LogModeAnnotation: "file"})
	fileOnly.boot(0, guest.Boot{Marker: "files"})
	r.refused(r.consoleCommand("default/files"), "is written to a file only (mode file): kubectl logs shows it", "cri-logproxy/log-mode: both")
	r.must(vm.Pod.Stop(r.ctx, 0))
	r.refused(r.consoleCommand("default/one"), "is not running")
	r.refused(exec.Command(proxyBinary, "console", "--state-dir="+r.StateDir, "--libvirt-socket=/nowhere/sock", "default/one"), "/nowhere/sock", "start libvirtd")
}
