package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/term"

	"github.com/cri-logproxy/cri-logproxy/libvirt"
	"github.com/cri-logproxy/cri-logproxy/proxy/logmap"
)

const consoleHelp = `Usage: cri-logproxy console [flags] CONTAINER

console puts this terminal on the console of a VM on this node, by running
virsh console. CONTAINER is the ID of its container, the beginning of one,
namespace/pod or namespace/pod/container. The key ^] leaves the console; the VM goes on.

It needs mode pty or both: what is the console of a VM in mode file is written
to a file only.

Flags:
`

// console is `cri-logproxy console`.
func console(args []string, out io.Writer) error {
	fs := flag.NewFlagSet("console", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Usage = func() {}
	force := fs.Bool("force", false, "throw off who has the console now")
	stateDir := fs.String("state-dir", defaultStateDir, "the proxy's --state-dir `directory`")
	libvirtSocket := fs.String("libvirt-socket", "", libvirtSocketUsage)
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			fmt.Fprint(out, consoleHelp)
			fs.SetOutput(out)
			fs.PrintDefaults()
			return err
		}
		return usageError{fmt.Errorf("console: %w", err)}
	}
	if fs.NArg() != 1 || fs.Arg(0) == "" {
		return usageError{errors.New("console: want one CONTAINER, behind the flags: an ID, the beginning of one, namespace/pod or namespace/pod/container")}
	}
	socket, err := parseLibvirtSocket(*libvirtSocket)
	if err != nil {
		return usageError{fmt.Errorf("console: --libvirt-socket: %w", err)}
	}
	id, err := findContainer(*stateDir, fs.Arg(0))
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGHUP, syscall.SIGINT)
	defer stop()
	client := libvirt.New(socket)
	defer client.Close()
	serial, err := client.Serial(ctx, id)
	if err != nil {
		return fmt.Errorf("console of container %s: %w", id, err)
	}
	if err := hasConsole(serial); err != nil {
		return err
	}
	virsh := []string{"-c", libvirt.URI(socket), "console", serial.Domain}
	if *force {
		virsh = append(virsh, "--force")
	}
	return runVirsh(ctx, virsh)
}

// findContainer returns the ID of the container that name means. An ID that is
// not on record may be one all the same: libvirt knows.
func findContainer(stateDir, name string) (string, error) {
	containers, err := logmap.Read(stateDir)
	if err != nil {
		return "", fmt.Errorf("read which VMs there are: %w: run as root, or set --state-dir", err)
	}
	var found []logmap.Container
	for _, c := range containers {
		if c.ID == name || c.KubeletID == name {
			return c.ID, nil
		}
		_, bare, _ := strings.Cut(c.ID, "__") // CRIProxy's prefix
		pod := c.Namespace + "/" + c.Pod
		if strings.HasPrefix(c.ID, name) || bare != "" && strings.HasPrefix(bare, name) || pod == name || pod+"/"+c.Name == name {
			found = append(found, c)
		}
	}
	switch {
	case len(found) == 1:
		return found[0].ID, nil
	case len(found) > 1:
		return "", fmt.Errorf("%q may be any of these:\n%s", name, listing(found))
	case libvirt.IsDomainID(name):
		return name, nil
	case len(containers) == 0:
		return "", fmt.Errorf("there is no VM %q: none is on record in %s", name, stateDir)
	}
	return "", fmt.Errorf("there is no VM %q; there are:\n%s", name, listing(containers))
}

// listing is one container a line.
func listing(containers []logmap.Container) string {
	var lines []string
	for _, c := range containers {
		lines = append(lines, fmt.Sprintf("  %s  %s/%s %s, mode %s", c.ID, c.Namespace, c.Pod, c.Name, c.Mode))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// hasConsole says why a VM has no console for virsh.
func hasConsole(s libvirt.Serial) error {
	switch {
	case !s.Active:
		return fmt.Errorf("the VM (domain %s) is not running", s.Domain)
	case s.Type == "file":
		return fmt.Errorf("the console of domain %s is written to a file only (mode file): kubectl logs shows it.\nTo have both, annotate the pod with cri-logproxy/log-mode: both and create it anew, or run the proxy with --log-mode=both", s.Domain)
	case s.Type != "pty":
		return fmt.Errorf("the console of domain %s is a %s, not a pty: virsh console cannot show it", s.Domain, s.Type)
	}
	return nil
}

// runVirsh runs virsh on this terminal, which is afterwards as it was.
func runVirsh(ctx context.Context, args []string) error {
	path, err := exec.LookPath("virsh")
	if err != nil {
		return fmt.Errorf("virsh is not installed here (Debian: libvirt-clients); where libvirt is, run\n  virsh %s", shellQuoted(args))
	}
	stdin := int(os.Stdin.Fd())
	before, err := term.GetState(stdin)
	if err != nil {
		return errors.New("a console needs a terminal; standard input is none")
	}
	defer term.Restore(stdin, before) // virsh may be killed
	var said bytes.Buffer
	cmd := exec.CommandContext(ctx, path, args...) // on its console virsh obeys no SIGTERM
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, io.MultiWriter(os.Stderr, &said)
	err = cmd.Run()
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return errors.New("interrupted")
	case strings.Contains(said.String(), "Active console session exists"):
		return errors.New("somebody else is on this console: --force throws them off")
	}
	return fmt.Errorf("virsh console: %w", err)
}

// shellQuoted writes arguments as a shell reads them.
func shellQuoted(args []string) string {
	quoted := make([]string, len(args))
	for i, a := range args {
		quoted[i] = a
		if strings.ContainsAny(a, " '\"?&*$\\;()<>|") {
			quoted[i] = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
	}
	return strings.Join(quoted, " ")
}
