package main

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-logproxy/cri-logproxy/proxy/proxytest"
)

// activate gives a command sockets as systemd does: as descriptors from 3 on,
// with the process' own ID in LISTEN_PID.
func activate(t *testing.T, cmd *exec.Cmd, sockets ...interface{ File() (*os.File, error) }) *exec.Cmd {
	t.Helper()
	for _, s := range sockets {
		f, err := s.File()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	}
	cmd.Env = append(cmd.Env, "LISTEN_FDS="+strconv.Itoa(len(sockets)))
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	cmd.Args = append([]string{sh, "-c", `LISTEN_PID=$$ exec "$0" "$@"`}, cmd.Args...)
	cmd.Path = sh
	return cmd
}

// listenUnix is systemd's part: the socket at path.
func listenUnix(t *testing.T, path string) *net.UnixListener {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// notifications is systemd's end of $NOTIFY_SOCKET.
type notifications struct {
	t    *testing.T
	conn *net.UnixConn
	path string
}

func newNotifications(t *testing.T, dir string) *notifications {
	t.Helper()
	n := &notifications{t: t, path: dir + "/notify.sock"}
	var err error
	if n.conn, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: n.path, Net: "unixgram"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.conn.Close() })
	return n
}

// next is the next notification.
func (n *notifications) next() string {
	n.t.Helper()
	if err := n.conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		n.t.Fatal(err)
	}
	buf := make([]byte, 4096)
	size, err := n.conn.Read(buf)
	if err != nil {
		n.t.Fatalf("waited in vain for a notification: %v", err)
	}
	return string(buf[:size])
}

func (n *notifications) want(state string) {
	n.t.Helper()
	lines := strings.Split(n.next(), "\n")
	if len(lines) != 2 || lines[0] != state || !strings.HasPrefix(lines[1], "STATUS=") || len(lines[1]) < len("STATUS=x") {
		n.t.Fatalf("notified %q, want %s and a status", lines, state)
	}
}

func newBackend(t *testing.T, dir string) *proxytest.Backend {
	t.Helper()
	b, err := proxytest.NewBackend(proxytest.BackendOptions{Socket: dir + "/runtime.sock"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

func version(ctx context.Context, conn *grpc.ClientConn, opts ...grpc.CallOption) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	_, err := runtimeapi.NewRuntimeServiceClient(conn).Version(ctx, &runtimeapi.VersionRequest{}, opts...)
	return err
}

// TestNotify checks what systemd is told, and that it is true.
func TestNotify(t *testing.T) {
	dir := newDir(t)
	newBackend(t, dir)
	n := newNotifications(t, dir)
	cmd := command(t, flags(dir)...)
	cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+n.path)
	d := start(t, cmd, dir)
	n.want("READY=1")
	conn, err := proxytest.Dial(dir + "/proxy.sock")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := version(t.Context(), conn); err != nil {
		t.Errorf("ready, but Version: %v", err)
	}
	if err := d.stop(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	n.want("STOPPING=1")

	// One that cannot serve says why, and is never ready.
	taken := listenUnix(t, dir+"/proxy.sock")
	cmd = command(t, flags(dir)...)
	cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+n.path)
	if code, _, stderr := result(t, cmd); code != 1 {
		t.Errorf("with a socket that is taken: exit code %d, %s", code, stderr)
	}
	if got := n.next(); !strings.HasPrefix(got, "STOPPING=1\nSTATUS=socket "+taken.Addr().String()+" is held by") {
		t.Errorf("notified %q", got)
	}
}

// TestSecondSignal checks that the first SIGTERM waits for a call that is under
// way, and that the second does not.
func TestSecondSignal(t *testing.T) {
	dir := newDir(t)
	b := newBackend(t, dir)
	calling, over := make(chan struct{}), make(chan struct{})
	defer close(over)
	// Not Version: the proxy asks for that itself.
	b.Handle("Status", proxytest.Typed(func(context.Context, *runtimeapi.StatusRequest) (*runtimeapi.StatusResponse, error) {
		close(calling)
		<-over
		return &runtimeapi.StatusResponse{}, nil
	}))
	n := newNotifications(t, dir)
	cmd := command(t, flags(dir)...)
	cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+n.path)
	d := start(t, cmd, dir)
	n.want("READY=1")
	conn, err := proxytest.Dial(dir + "/proxy.sock")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	called := make(chan error, 1)
	go func() {
		_, err := runtimeapi.NewRuntimeServiceClient(conn).Status(t.Context(), &runtimeapi.StatusRequest{})
		called <- err
	}()
	<-calling
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	n.want("STOPPING=1")
	select {
	case err := <-called:
		t.Errorf("SIGTERM has cut off a call: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	begin := time.Now()
	err = d.stop(syscall.SIGTERM)
	if took := time.Since(begin); took > time.Second {
		t.Errorf("the second SIGTERM took %v", took)
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGTERM {
		t.Errorf("after the second SIGTERM: %v", err)
	}
}

// TestUpgrade replaces the process three times, as systemctl restart does with
// a socket unit, while clients connect and call. Nobody is refused: who comes
// between two processes waits.
func TestUpgrade(t *testing.T) {
	dir := newDir(t)
	newBackend(t, dir)
	socket := listenUnix(t, dir+"/proxy.sock")
	before, err := os.Lstat(dir + "/proxy.sock")
	if err != nil {
		t.Fatal(err)
	}
	n := newNotifications(t, dir)
	run := func() *daemon {
		cmd := activate(t, command(t, flags(dir)...), socket)
		cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+n.path)
		d := start(t, cmd, dir)
		n.want("READY=1")
		return d
	}

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var clients sync.WaitGroup
	defer clients.Wait()
	defer cancel()
	var dials, calls atomic.Int64
	dialer := func(ctx context.Context, _ string) (net.Conn, error) {
		dials.Add(1)
		c, err := (&net.Dialer{}).DialContext(ctx, "unix", dir+"/proxy.sock")
		if err != nil && ctx.Err() == nil {
			t.Errorf("refused: %v", err)
		}
		return c, err
	}
	dial := func() *grpc.ClientConn {
		conn, err := grpc.NewClient("passthrough:proxy", grpc.WithContextDialer(dialer), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
	call := func(conn *grpc.ClientConn, opts ...grpc.CallOption) {
		if err := version(ctx, conn, opts...); err != nil && ctx.Err() == nil {
			t.Errorf("Version: %v", err)
		}
		calls.Add(1)
		time.Sleep(time.Millisecond) // leave the machine to others
	}
	for range 3 {
		conn := dial()
		defer conn.Close()
		clients.Go(func() { // keeps its connection as long as it can
			for ctx.Err() == nil {
				call(conn, grpc.WaitForReady(true))
			}
		})
		clients.Go(func() { // connects for each call
			for ctx.Err() == nil {
				conn := dial()
				call(conn, grpc.WaitForReady(true))
				conn.Close()
			}
		})
	}
	d := run()
	for range 3 {
		for reached := calls.Load() + 200; calls.Load() < reached && !t.Failed(); {
			time.Sleep(time.Millisecond)
		}
		if err := d.stop(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		n.want("STOPPING=1")
		// Nobody serves. Even one who does not wait for a server to be ready,
		// as kubelet, is answered.
		conn := dial()
		clients.Go(func() {
			defer conn.Close()
			call(conn)
		})
		for conn.GetState() != connectivity.Connecting && !t.Failed() {
			time.Sleep(time.Millisecond)
		}
		d = run()
	}
	for reached := calls.Load() + 200; calls.Load() < reached && !t.Failed(); {
		time.Sleep(time.Millisecond)
	}
	cancel()
	clients.Wait()
	if err := d.stop(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	t.Logf("%d calls, %d connections", calls.Load(), dials.Load())
	if after, err := os.Lstat(dir + "/proxy.sock"); err != nil || !os.SameFile(before, after) {
		t.Errorf("the socket is not what it was: %v", err)
	}
	if c, err := net.Dial("unix", dir+"/proxy.sock"); err != nil {
		t.Errorf("after the last one: %v", err)
	} else {
		c.Close()
	}
}

// TestPassedSockets checks what is done with sockets that are not as they should
// be.
func TestPassedSockets(t *testing.T) {
	dir := newDir(t)
	good := listenUnix(t, dir+"/proxy.sock")
	other := listenUnix(t, dir+"/other.sock")
	runtime := listenUnix(t, dir+"/runtime.sock")
	datagram := newNotifications(t, dir).conn
	tcp, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	connected, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: dir + "/other.sock", Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer connected.Close()
	type socket = interface{ File() (*os.File, error) }
	for name, test := range map[string]struct {
		sockets []socket
		want    string
	}{
		"two":         {[]socket{good, other}, "systemd passes 2 sockets (a.socket, b.socket), want one"},
		"a datagram":  {[]socket{datagram}, "what systemd passes (a.socket) is not a unix stream socket that listens"},
		"TCP":         {[]socket{tcp}, "not a unix stream socket that listens"},
		"Accept=yes":  {[]socket{connected}, "not a unix stream socket that listens"},
		"the runtime": {[]socket{runtime}, "it would call itself"},
	} {
		cmd := activate(t, command(t, flags(dir)...), test.sockets...)
		cmd.Env = append(cmd.Env, "LISTEN_FDNAMES=a.socket:b.socket")
		code, stdout, stderr := result(t, cmd)
		if code != 1 || stdout != "" || !strings.Contains(stderr, "cri-logproxy: ") || !strings.Contains(stderr, test.want) {
			t.Errorf("%s: exit code %d, stdout %q, stderr %q", name, code, stdout, stderr)
		}
	}

	// Another path than --listen's: the socket that kubelet can reach is served.
	d := start(t, activate(t, command(t, flags(dir, "--listen="+dir+"/elsewhere.sock")...), good), dir)
	if err := d.stop(syscall.SIGTERM); err != nil {
		t.Error(err)
	}

	// Meant for another process: not ours.
	good.Close()
	cmd := command(t, flags(dir)...)
	cmd.Env = append(cmd.Env, "LISTEN_FDS=1", "LISTEN_PID=1")
	d = start(t, cmd, dir)
	if err := d.stop(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
}
