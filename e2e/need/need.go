// Package need says what the test equipment lacks on this machine, and what
// the operator does about it.
//
// The harnesses drive real programs (libvirtd, QEMU, apt-get …). Each checks
// its own needs before it starts anything, so that a person sees "apt-get
// install …" instead of a daemon's stack of secondary errors. A test fails with
// that error: a test that is skipped proves nothing.
package need

import (
	"fmt"
	"os"
	"os/exec"
)

// MissingError says that the machine lacks something that a harness needs.
type MissingError struct {
	What   string // the program, file or right that is missing
	Remedy string // what the operator does about it
}

func (e *MissingError) Error() string {
	return fmt.Sprintf("%s is missing: %s", e.What, e.Remedy)
}

// Root returns a MissingError unless the process runs as root.
func Root() error {
	if os.Geteuid() == 0 {
		return nil
	}
	return &MissingError{What: "root (namespaces, bind mounts)", Remedy: "run as root"}
}

// File returns a MissingError unless path exists; pkg is the Debian package
// that brings it.
func File(path, pkg string) error {
	if _, err := os.Stat(path); err != nil {
		return &MissingError{What: path, Remedy: install(pkg)}
	}
	return nil
}

// Command returns a MissingError unless name is found in PATH; pkg is the
// Debian package that brings it.
func Command(name, pkg string) error {
	if _, err := exec.LookPath(name); err != nil {
		return &MissingError{What: name, Remedy: install(pkg)}
	}
	return nil
}

func install(pkg string) string {
	return "apt-get install -y --no-install-recommends " + pkg
}
