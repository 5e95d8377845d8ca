package vmruntime

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cri-logproxy/cri-logproxy/e2e/guest"
)

// API is a version of CRI: the package name of its services.
type API string

// The versions of CRI that a Runtime can serve. Their messages are the same on
// the wire, but for the namespaces of v1alpha1: see [Era082].
const (
	V1       API = "runtime.v1"
	V1alpha2 API = "runtime.v1alpha2"
	V1alpha1 API = "runtime"
)

// Options of a Runtime.
type Options struct {
	Listen  string // unix socket to serve on
	Era     Era    // what to imitate
	APIs    []API  // which versions to serve; default: those of the era
	Libvirt string // libvirtd's unix socket

	// LogLocation is what VIRTLET_VM_LOG_LOCATION is to Virtlet: the directory
	// of the raw logs as libvirtd sees it, or "pty" or "" for serial ports that
	// are pseudo-terminals.
	LogLocation string
	// LogDir is the same directory as this process sees it. Default:
	// LogLocation.
	LogDir string

	Guest    guest.Guest // what the virtual machines boot
	StateDir string      // where sandboxes and containers are remembered
}

// withDefaults checks the options and fills in what was left out.
func (o Options) withDefaults() (Options, error) {
	for name, path := range map[string]string{
		"Listen": o.Listen, "Libvirt": o.Libvirt, "StateDir": o.StateDir,
		"Guest.Kernel": o.Guest.Kernel, "Guest.Initrd": o.Guest.Initrd,
	} {
		if !filepath.IsAbs(path) {
			return o, fmt.Errorf("option %s: %q is no absolute path", name, path)
		}
	}
	b, ok := behaviours[o.Era]
	if !ok {
		return o, fmt.Errorf("option Era: unknown era %q", o.Era)
	}
	if len(o.APIs) == 0 {
		o.APIs = b.apis
	}
	for _, api := range o.APIs {
		if methods(api) == nil {
			return o, fmt.Errorf("option APIs: unknown version %q", api)
		}
	}
	if o.pty() {
		return o, nil
	}
	if !filepath.IsAbs(o.LogLocation) {
		return o, fmt.Errorf(`option LogLocation: %q is neither "pty" nor an absolute path`, o.LogLocation)
	}
	if o.LogDir == "" {
		o.LogDir = o.LogLocation
	}
	return o, nil
}

// prepare makes the directories that the options name.
func (o Options) prepare() error {
	err := os.MkdirAll(o.StateDir, 0o700)
	if !o.pty() {
		err = errors.Join(err, os.MkdirAll(o.LogDir, 0o755))
	}
	return err
}

// pty says whether serial ports are pseudo-terminals.
func (o Options) pty() bool { return o.LogLocation == "" || o.LogLocation == "pty" }
