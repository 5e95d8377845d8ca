package libvirt

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	golibvirt "github.com/digitalocean/go-libvirt"
)

// ErrNoDomain says that libvirt does not have the domain.
var ErrNoDomain = errors.New("libvirt has no such domain")

// errNotLibvirt says that something else listens at the socket.
var errNotLibvirt = errors.New("what answers there does not speak libvirt's protocol")

// UnavailableError says that libvirt cannot be asked, why, and what to do.
type UnavailableError struct {
	Socket string // what was tried: the usual places, if there is a socket in none
	Err    error  // the cause; [context.DeadlineExceeded] if there was no answer in time
}

func (e *UnavailableError) Error() string {
	if errors.Is(e.Err, fs.ErrNotExist) {
		return fmt.Sprintf("libvirt is not available: there is no socket at %s: start libvirtd, or give its path with --libvirt-socket (in a container, mount the socket's directory)", e.Socket)
	}
	return fmt.Sprintf("libvirt at %s is not available: %s", e.Socket, advice(e.Err))
}

// Unwrap returns the cause.
func (e *UnavailableError) Unwrap() error { return e.Err }

// errClosed says that the client was closed.
var errClosed = errors.New("the client is closed")

// advice puts a cause and its remedy into words.
func advice(err error) string {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return "permission denied: run as root, or in the group of the socket"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nobody listens at the socket: start libvirtd"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, syscall.EAGAIN):
		return "no answer in time: if libvirtd hangs, restart it (VMs go on meanwhile)"
	case errors.Is(err, golibvirt.ErrInterrupted):
		return "it has broken the connection off: see libvirtd's log"
	case errors.Is(err, errClosed):
		return err.Error()
	case errors.Is(err, errNotLibvirt):
		return err.Error() + ": give the path of libvirtd's socket with --libvirt-socket"
	default:
		return err.Error() + ": see libvirtd's log"
	}
}
