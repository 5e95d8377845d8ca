package main

import (
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"

	"github.com/coreos/go-systemd/v22/activation"
	sd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/golang/glog"

	"github.com/cri-logproxy/cri-logproxy/proxy"
)

// listen returns the listener to serve and its path: the socket that systemd
// passes if it does, else one at --listen. systemd keeps its socket when we
// close it, so that who connects between two processes waits for the second.
func listen(o *options) (l net.Listener, path string, err error) {
	passed, err := passedSocket()
	if err != nil {
		return nil, "", err
	}
	if passed == nil {
		l, err := proxy.Listen(o.listen)
		return l, o.listen, err
	}
	path = passed.Addr().String()
	if sameSocket(path, o.proxy.RuntimeSocket) {
		passed.Close()
		return nil, "", fmt.Errorf("the socket %s that systemd passes is --runtime-endpoint: it would call itself", path)
	}
	if !sameSocket(path, o.listen) {
		glog.Warningf("systemd passes the socket %s: that one is served, not --listen=%s; make ListenStream= of cri-logproxy.socket and --listen agree", path, o.listen)
	}
	return passed, path, nil
}

// passedSocket is the socket that systemd passes, nil if it passes none.
func passedSocket() (*net.UnixListener, error) {
	files := activation.Files(true)
	for _, f := range files {
		defer f.Close() // net.FileListener has its own
	}
	switch len(files) {
	case 0:
		return nil, nil
	case 1:
	default:
		var names []string
		for _, f := range files {
			names = append(names, f.Name())
		}
		return nil, fmt.Errorf("systemd passes %d sockets (%s), want one: have a single ListenStream= in cri-logproxy.socket", len(files), strings.Join(names, ", "))
	}
	f := files[0]
	if !isListener(int(f.Fd())) {
		return nil, fmt.Errorf("what systemd passes (%s) is not a unix stream socket that listens: want ListenStream=/path/to.sock, and Accept=no, in cri-logproxy.socket", f.Name())
	}
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("listen at the socket that systemd passes (%s): %w", f.Name(), err)
	}
	return l.(*net.UnixListener), nil
}

// isListener says that a descriptor is of a unix stream socket that listens.
func isListener(fd int) bool {
	for option, want := range map[int]int{
		syscall.SO_DOMAIN:     syscall.AF_UNIX,
		syscall.SO_TYPE:       syscall.SOCK_STREAM,
		syscall.SO_ACCEPTCONN: 1,
	} {
		if value, err := syscall.GetsockoptInt(fd, syscall.SOL_SOCKET, option); err != nil || value != want {
			return false
		}
	}
	return true
}

// readyListener calls ready when it is first asked for a connection, from when
// on calls are served.
type readyListener struct {
	net.Listener
	ready func()
}

func whenReady(l net.Listener, ready func()) net.Listener {
	return &readyListener{Listener: l, ready: sync.OnceFunc(ready)}
}

func (l *readyListener) Accept() (net.Conn, error) {
	l.ready()
	return l.Listener.Accept()
}

// notifyReady tells systemd, if it wants to know (Type=notify), that calls are
// served. status is what systemctl status shows.
func notifyReady(status string) { notify(sd.SdNotifyReady, status) }

// notifyStopping tells it that this is the end, and why.
func notifyStopping(status string) { notify(sd.SdNotifyStopping, status) }

func notify(state, status string) {
	message := state + "\nSTATUS=" + strings.ReplaceAll(status, "\n", " ")
	if _, err := sd.SdNotify(false, message); err != nil {
		glog.Warningf("tell systemd at $NOTIFY_SOCKET=%s: %v", os.Getenv("NOTIFY_SOCKET"), err)
	}
}
