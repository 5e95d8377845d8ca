// Package binaries builds the programs that a cluster is made of, once per
// machine.
//
// They come from the modules that e2e/cluster/kube and e2e/cluster/containerd
// require, and stay in the user's cache, in directories whose names say what they
// were made from and how.
package binaries

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/cri-logproxy/cri-logproxy/e2e/internal/fsutil"
	"github.com/cri-logproxy/cri-logproxy/e2e/need"
)

// e2eModule is the module below whose directory the modules of the programs are.
const e2eModule = "github.com/cri-logproxy/cri-logproxy/e2e"

// stillBuilding is the time between two lines that say that a build goes on.
const stillBuilding = 30 * time.Second

// Set is some programs that are built from one module.
type Set struct {
	Dir      string   // of the module, below e2e
	Packages []string // of the programs
	Module   string   // whose version is the programs'
	LDFlags  string   // for the linker; %[1]s is the version, %[2]s its minor number
	Tags     string   // build tags
	Takes    string   // how long a build takes that finds nothing to reuse
}

// Kubernetes is what a node and its control plane need.
var Kubernetes = Set{
	Dir: "cluster/kube",
	Packages: []string{
		"k8s.io/kubernetes/cmd/kubelet",
		"k8s.io/kubernetes/cmd/kube-apiserver",
		"k8s.io/kubernetes/cmd/kubectl",
	},
	Module: "k8s.io/kubernetes",
	// The programs find out from their version what they are compatible with.
	LDFlags: "-s -w -X k8s.io/component-base/version.gitVersion=%[1]s -X k8s.io/component-base/version.gitMajor=1" +
		" -X k8s.io/component-base/version.gitMinor=%[2]s",
	Takes: "6 minutes on two idle cores",
}

// Containerd is what runs containers on a node.
var Containerd = Set{
	Dir: "cluster/containerd",
	Packages: []string{
		"github.com/containerd/containerd/v2/cmd/containerd",
		"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
		"github.com/containerd/containerd/v2/cmd/ctr",
	},
	Module:  "github.com/containerd/containerd/v2",
	LDFlags: "-s -w -X github.com/containerd/containerd/v2/version.Version=%[1]s",
	Tags:    "no_btrfs no_devmapper no_zfs no_tracing",
	Takes:   "1 minute on two idle cores",
}

// Find returns the directory of the programs, or a [need.MissingError] if they
// are not built.
func (s Set) Find(ctx context.Context) (string, error) {
	p, err := s.plan(ctx)
	if err != nil {
		return "", fmt.Errorf("binaries: %w", err)
	}
	if !p.done() {
		return "", &need.MissingError{What: p.String() + " in " + p.out, Remedy: "make programs builds it (" + s.Takes + ", once per machine)"}
	}
	return p.out, nil
}

// Build returns the directory of the programs, having built them if need be. It
// tells on progress what it does. Processes that build the same wait for each
// other.
func (s Set) Build(ctx context.Context, progress io.Writer) (string, error) {
	p, err := s.plan(ctx)
	if err == nil && !p.done() {
		err = p.build(ctx, progress)
	}
	if err != nil {
		return "", fmt.Errorf("binaries: %w", err)
	}
	return p.out, nil
}

// plan is a Set on this machine.
type plan struct {
	Set
	module  string // directory of the module
	version string
	flags   []string // of go build
	out     string   // where the programs shall be
}

func (s Set) plan(ctx context.Context) (plan, error) {
	e2e, err := goTool(ctx, "", "list", "-m", "-f", "{{.Dir}}", e2eModule)
	if err != nil {
		return plan{}, err
	}
	p := plan{Set: s, module: filepath.Join(e2e, s.Dir)}
	if p.version, err = goTool(ctx, p.module, "list", "-m", "-f", "{{.Version}}", s.Module); err != nil {
		return plan{}, err
	}
	compiler, err := goTool(ctx, p.module, "version")
	if err != nil {
		return plan{}, err
	}
	minor := strings.SplitN(p.version+"..", ".", 3)[1]
	ldflags := strings.NewReplacer("%[1]s", p.version, "%[2]s", minor).Replace(s.LDFlags)
	p.flags = []string{"-trimpath", "-buildvcs=false", "-tags=" + s.Tags, "-ldflags=" + ldflags}

	key := sha256.New()
	for _, name := range []string{"go.mod", "go.sum"} {
		b, err := os.ReadFile(filepath.Join(p.module, name))
		if err != nil {
			return plan{}, err
		}
		key.Write(b)
	}
	fmt.Fprintln(key, compiler, p.flags, s.Packages)
	cache, err := os.UserCacheDir()
	if err != nil {
		return plan{}, err
	}
	p.out = filepath.Join(cache, "cri-logproxy", path.Base(s.Dir), fmt.Sprintf("%s-%.8x", p.version, key.Sum(nil)))
	return p, nil
}

func (p plan) String() string {
	names := make([]string, len(p.Packages))
	for i, pkg := range p.Packages {
		names[i] = path.Base(pkg)
	}
	return strings.Join(names, ", ") + " " + p.version
}

// done says whether the programs are there. They come all at once.
func (p plan) done() bool {
	_, err := os.Stat(p.out)
	return err == nil
}

func (p plan) build(ctx context.Context, progress io.Writer) error {
	parent := filepath.Dir(p.out)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return err
	}
	unlock, err := fsutil.Lock(ctx, filepath.Join(parent, "lock"))
	if err != nil {
		return err
	}
	defer unlock()
	if p.done() { // somebody else was faster
		return nil
	}
	// Only we are here: what is left was left by a build that was killed.
	stale, err := filepath.Glob(filepath.Join(parent, ".building*"))
	if err != nil {
		return err
	}
	for _, dir := range stale {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	tmp, err := os.MkdirTemp(parent, ".building")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	fmt.Fprintf(progress, "building %s: about %s, once per machine\n", p, p.Takes)
	began := time.Now()
	for _, pkg := range p.Packages {
		if err := p.buildOne(ctx, progress, pkg, tmp); err != nil {
			return err
		}
	}
	fmt.Fprintf(progress, "built %s in %v, into %s\n", p, time.Since(began).Round(time.Second), p.out)
	if err := os.Chmod(tmp, 0o755); err != nil {
		return err
	}
	return os.Rename(tmp, p.out)
}

// buildOne builds one program into dir: one after the other, so that a person
// sees how far it is and the linkers do not need memory at the same time.
func (p plan) buildOne(ctx context.Context, progress io.Writer, pkg, dir string) error {
	name := path.Base(pkg)
	began := time.Now()
	done := make(chan struct{})
	defer close(done)
	go func() {
		tick := time.NewTicker(stillBuilding)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				fmt.Fprintf(progress, "  %s: %v\n", name, time.Since(began).Round(time.Second))
			}
		}
	}()
	args := append([]string{"build"}, p.flags...)
	cmd := exec.CommandContext(ctx, "go", append(args, "-o", filepath.Join(dir, name), pkg)...)
	cmd.Dir = p.module
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%v: %w: %s", cmd.Args, err, bytes.TrimSpace(out))
	}
	fmt.Fprintf(progress, "  %s: done after %v\n", name, time.Since(began).Round(time.Second))
	return nil
}

// goTool runs the go command and returns what it prints.
func goTool(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, bytes.TrimSpace(exit.Stderr))
		}
		return "", fmt.Errorf("%v: %w", cmd.Args, err)
	}
	return string(bytes.TrimSpace(out)), nil
}
