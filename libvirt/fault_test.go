package libvirt

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	golibvirt "github.com/digitalocean/go-libvirt"
	"golang.org/x/sys/unix"
)

// TestLibvirtRestarts breaks the connection between calls, and within each.
func TestLibvirtRestarts(t *testing.T) {
	f := startFake(t, ptyPort)
	c := newClient(t, f.socket, patience)
	_, err := c.Serial(t.Context(), containerID)
	must(t, err)
	f.stop()
	must(t, os.RemoveAll(f.socket))
	f.listen()
	_, err = c.Serial(t.Context(), containerID)
	must(t, err)

	for _, broken := range []uint32{procLookup, procXML, procDefine} {
		f.do(func() {
			f.xml = withSerial(ptyPort)
			f.on = func(proc uint32) answer {
				if proc == broken {
					f.on = nil
					return hangUp
				}
				return reply
			}
		})
		_, err := c.SetConsole(t.Context(), containerID, Both, "/l")
		must(t, err)
		f.do(func() {
			if f.xml != withSerial(bothPort) {
				t.Errorf("broken in procedure %d: %s", broken, f.xml)
			}
		})
	}

	f.do(func() {
		f.on = func(proc uint32) answer {
			if proc == procXML {
				return hangUp
			}
			return reply
		}
	})
	_, err = c.Serial(t.Context(), containerID)
	wantUnavailable(t, err, "broken the connection off")
}

// TestLibvirtHangs stops it from answering, before and after it has accepted the
// connection as one.
func TestLibvirtHangs(t *testing.T) {
	for name, mute := range map[string]uint32{"connecting": procAuthList, "looking up": procLookup, "defining": procDefine} {
		t.Run(name, func(t *testing.T) {
			f := startFake(t, ptyPort)
			c := newClient(t, f.socket, brief)
			f.do(func() {
				f.on = func(proc uint32) answer {
					if proc == mute {
						return hang
					}
					return reply
				}
			})
			var calls sync.WaitGroup
			for range 10 {
				calls.Go(func() {
					asked := time.Now()
					_, err := c.SetConsole(t.Context(), containerID, Both, "/l")
					if after := time.Since(asked); after < brief || after > patience/2 {
						t.Errorf("ended after %v", after)
					}
					wantUnavailable(t, err, "no answer")
					if !errors.Is(err, context.DeadlineExceeded) {
						t.Error(err)
					}
				})
			}
			calls.Wait()
			f.do(func() { f.on = nil })
			eventually(t, "it is well again", func() bool {
				_, err := c.Serial(t.Context(), containerID)
				return err == nil
			})
			eventually(t, "what hung is dropped", func() bool { now, _ := f.connections(); return now == 1 })
		})
	}
}

// TestCallerGivesUp ends calls early; that alone costs nobody the connection.
func TestCallerGivesUp(t *testing.T) {
	f := startFake(t, ptyPort)
	c := newClient(t, f.socket, patience)
	_, err := c.Serial(t.Context(), containerID)
	must(t, err)

	f.mu.Lock() // no answer until it is unlocked
	short, cancel := context.WithTimeout(t.Context(), brief/10)
	defer cancel()
	_, err = c.Serial(short, containerID)
	wantUnavailable(t, err, "no answer")
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Serial(gone, containerID); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	f.mu.Unlock()

	_, err = c.Serial(t.Context(), containerID)
	must(t, err)
	if _, ever := f.connections(); ever != 1 {
		t.Errorf("%d connections", ever)
	}
}

func TestSilentListener(t *testing.T) {
	socket, accepted := listenTo(t, func(net.Conn) {})
	c := newClient(t, socket, brief)
	short, cancel := context.WithTimeout(t.Context(), brief/10)
	defer cancel()
	asked := time.Now()
	_, err := c.Serial(short, containerID)
	wantUnavailable(t, err, "no answer")
	_, err = c.Serial(t.Context(), containerID)
	wantUnavailable(t, err, "no answer")
	if after := time.Since(asked); after > patience/2 {
		t.Errorf("ended after %v", after)
	}
	_, err = (<-accepted).Read(make([]byte, 100)) // the call
	must(t, err)
}

// TestNotLibvirt connects to servers that speak something else: go-libvirt
// alone would panic, or take gigabytes.
func TestNotLibvirt(t *testing.T) {
	for name, says := range map[string]string{
		"short":   "\x00\x00\x00\x04\x00\x00\x00\x00\x00",
		"long":    "HTTP/1.1 400 Bad Request\r\n\r\n",
		"foreign": "\x00\x00\x00\x40\x01\x02\x03\x04" + strings.Repeat("x", 56),
	} {
		t.Run(name, func(t *testing.T) {
			socket, _ := listenTo(t, func(conn net.Conn) { io.WriteString(conn, says) })
			c := newClient(t, socket, patience)
			_, err := c.Serial(t.Context(), containerID)
			wantUnavailable(t, err, "give the path of libvirtd's socket with --libvirt-socket")
		})
	}
	socket, _ := listenTo(t, func(conn net.Conn) { conn.Close() })
	_, err := newClient(t, socket, patience).Serial(t.Context(), containerID)
	wantUnavailable(t, err, "see libvirtd's log")
}

// listenTo accepts connections and does that with each.
func listenTo(t *testing.T, do func(net.Conn)) (socket string, accepted chan net.Conn) {
	t.Helper()
	socket, accepted = filepath.Join(t.TempDir(), "sock"), make(chan net.Conn, 100)
	l, err := net.Listen("unix", socket)
	must(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			do(conn)
			accepted <- conn
		}
	}()
	return socket, accepted
}

func TestNobodyListens(t *testing.T) {
	absent := filepath.Join(t.TempDir(), "absent")
	_, err := newClient(t, absent, patience).Serial(t.Context(), containerID)
	wantUnavailable(t, err, "there is no socket at "+absent+": start libvirtd, or give its path with --libvirt-socket")

	refused := filepath.Join(t.TempDir(), "refused")
	abandon(t, refused)
	_, err = newClient(t, refused, patience).Serial(t.Context(), containerID)
	wantUnavailable(t, err, "nobody listens")
}

// TestPermission connects as somebody who may not.
func TestPermission(t *testing.T) {
	f := startFake(t, ptyPort)
	must(t, os.Chmod(f.socket, 0o600))
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread is spoilt, and goes with the goroutine
		if os.Geteuid() == 0 {
			if err := unix.Setfsuid(65534); err != nil {
				done <- err
				return
			}
		} else if err := os.Chmod(f.socket, 0); err != nil {
			done <- err
			return
		}
		_, _, err := dial(t.Context(), []string{f.socket})
		done <- err
	}()
	err := <-done
	if !errors.Is(err, os.ErrPermission) {
		t.Errorf("got %v", err)
	}
	wantUnavailable(t, &UnavailableError{f.socket, err}, "permission denied: run as root")
}

func TestAdvice(t *testing.T) {
	for err, want := range map[error]string{
		syscall.EAGAIN:           "no answer",
		golibvirt.ErrUnsupported: "unsupported procedure requested: see libvirtd's log",
	} {
		wantUnavailable(t, &UnavailableError{"/s", err}, want)
	}
}
