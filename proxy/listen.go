package proxy

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// socketMode is the permission of the listening socket, containerd's.
const socketMode = 0o660

// maxSocketPath is what fits into a sockaddr_un (unix(7)).
const maxSocketPath = 107

// ParseEndpoint returns the path of a unix socket, given as `unix:///path` or as
// `/path`.
func ParseEndpoint(endpoint string) (path string, err error) {
	path, unix := strings.CutPrefix(endpoint, "unix://")
	switch {
	case !unix && strings.Contains(endpoint, "://"):
		return "", fmt.Errorf("%q: only unix sockets are possible: want unix:///path/to.sock", endpoint)
	case !filepath.IsAbs(path) || strings.HasSuffix(path, "/"):
		return "", fmt.Errorf("%q: want unix:///path/to.sock", endpoint)
	case len(path) > maxSocketPath:
		return "", fmt.Errorf("%q: the path of a unix socket has at most %d bytes, this one has %d", endpoint, maxSocketPath, len(path))
	}
	if fi, err := os.Stat(path); err == nil && fi.Mode().Type() != fs.ModeSocket {
		return "", fmt.Errorf("%q: there is no socket but another kind of file: want unix:///path/to.sock", endpoint)
	}
	return filepath.Clean(path), nil
}

// SocketInUseError says that a process listens at a socket.
type SocketInUseError struct {
	Path  string
	Owner string
}

func (e *SocketInUseError) Error() string {
	return fmt.Sprintf("socket %s is held by %s: stop it, or give this one another --listen", e.Path, e.Owner)
}

// Listen makes a listener at a unix socket. A socket that nobody listens at is
// replaced, without a moment in which there is none; a live one is left alone
// and reported as *SocketInUseError. The caller closes the listener, which
// removes the socket if it still is its own.
func Listen(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make the directory of the socket: %w: run as root, or set --listen", err)
	}
	conn, err := net.Dial("unix", path)
	switch {
	case err == nil:
		defer conn.Close()
		return nil, &SocketInUseError{Path: path, Owner: peerName(conn)}
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, fs.ErrNotExist):
		// A dead process' socket, or none.
	default:
		return nil, fmt.Errorf("is there anybody at %s? %w", path, err)
	}
	// The name is short: path may be as long as a socket's can be.
	dir, err := os.MkdirTemp(filepath.Dir(path), ".")
	if err != nil {
		return nil, fmt.Errorf("listen at %s: %w: run as root, or set --listen", path, err)
	}
	defer os.RemoveAll(dir)
	l, err := listenAt(dir)
	if err != nil {
		return nil, fmt.Errorf("listen at %s: %w", path, err)
	}
	tmp := filepath.Join(dir, socketName)
	fi, err := os.Lstat(tmp)
	if err == nil {
		err = os.Chmod(tmp, socketMode)
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("listen at %s: %w", path, err)
	}
	return &listener{Listener: l, path: path, socket: fi}, nil
}

const socketName = "s"

// listenAt listens at socketName in dir, which may have a path that is too long
// for a socket's.
func listenAt(dir string) (*net.UnixListener, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), socketName), Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	return l, nil
}

// listener removes its socket when it is closed, unless another process has put
// its own there.
type listener struct {
	net.Listener
	path   string
	socket fs.FileInfo
}

func (l *listener) Close() error {
	if fi, err := os.Lstat(l.path); err == nil && os.SameFile(fi, l.socket) {
		if err := os.Remove(l.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return errors.Join(err, l.Listener.Close())
		}
	}
	return l.Listener.Close()
}

// peerName says which process is at the other end of a unix connection.
func peerName(conn net.Conn) string {
	const unknown = "another process"
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return unknown
	}
	var cred *syscall.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) {
		cred, credErr = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	})
	if err != nil || credErr != nil || cred.Pid == 0 {
		return unknown
	}
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", cred.Pid))
	if err != nil {
		return fmt.Sprintf("pid %d", cred.Pid)
	}
	return fmt.Sprintf("%s (pid %d)", strings.TrimSpace(string(comm)), cred.Pid)
}
