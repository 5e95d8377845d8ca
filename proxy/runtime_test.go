package proxy

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-logproxy/cri-logproxy/proxy/api"
	"github.com/cri-logproxy/cri-logproxy/proxy/proxytest"
)

const (
	statusV1       = "/runtime.v1.RuntimeService/Status"
	statusV1alpha2 = "/runtime.v1alpha2.RuntimeService/Status"
)

// connect is a connection to a runtime, and what onPeer has been told.
func connect(t *testing.T, socket string) (*runtimeConn, func() []Peer) {
	t.Helper()
	var mu sync.Mutex
	var told []Peer
	conn, err := dialRuntime(socket, func(p Peer) {
		mu.Lock()
		defer mu.Unlock()
		told = append(told, p)
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		watchRuntime(ctx, conn, func(context.Context) time.Duration { return 0 })
	}()
	t.Cleanup(func() {
		cancel()
		<-watched
		conn.Close()
	})
	return conn, func() []Peer {
		mu.Lock()
		defer mu.Unlock()
		return append([]Peer(nil), told...)
	}
}

func newBackend(t *testing.T, apis ...string) *proxytest.Backend {
	t.Helper()
	backend, err := proxytest.NewBackend(proxytest.BackendOptions{APIs: apis})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(backend.Close)
	return backend
}

// release has the runtime say that it is of that release.
func release(backend *proxytest.Backend, version string) {
	backend.Handle("Version", proxytest.Typed(func(context.Context, *runtimeapi.VersionRequest) (*runtimeapi.VersionResponse, error) {
		return &runtimeapi.VersionResponse{RuntimeName: "virtlet", RuntimeVersion: version, RuntimeApiVersion: "0.1.0"}, nil
	}))
}

func invoke(t *testing.T, conn *runtimeConn, method string) error {
	t.Helper()
	return conn.Invoke(t.Context(), method, &message{}, &message{})
}

// peerOf is a Peer with these APIs.
func peerOf(version string, apis ...api.Version) Peer {
	p := Peer{Name: "virtlet", Version: version, APIVersion: "0.1.0"}
	for _, v := range apis {
		p.APIs.Add(v)
	}
	return p
}

func TestPeer(t *testing.T) {
	for _, served := range [][]api.Version{
		{api.V1}, {api.V1alpha2}, {api.V1alpha1}, {api.V1, api.V1alpha2}, {api.V1alpha2, api.V1alpha1}, api.Versions,
	} {
		var packages []string
		for _, v := range served {
			packages = append(packages, v.Package())
		}
		backend := newBackend(t, packages...)
		release(backend, "1")
		conn, told := connect(t, backend.Socket())
		if err := invoke(t, conn, statusV1); err != nil {
			t.Errorf("%v: %v", served, err)
		}
		want := peerOf("1", served...)
		if got := told(); len(got) != 1 || got[0] != want || conn.Peer() != want {
			t.Errorf("%v: told of %+v, now it is %+v", served, got, conn.Peer())
		}
	}
}

func TestServed(t *testing.T) {
	const (
		ok       = codes.OK
		lacks    = codes.Unimplemented
		refuses  = codes.Unknown
		hangs    = codes.DeadlineExceeded
		breaks   = codes.Unavailable
		cut      = codes.Canceled
		v1, a, b = "v1", "v1alpha2", "v1alpha1"
	)
	for _, test := range []struct {
		ends [3]codes.Code // of the newest first
		want string
	}{
		{[3]codes.Code{ok, ok, ok}, v1 + ", " + a + ", " + b},
		{[3]codes.Code{lacks, ok, lacks}, a},
		{[3]codes.Code{lacks, lacks, refuses}, b},
		{[3]codes.Code{lacks, lacks, lacks}, ""},
		{[3]codes.Code{hangs, ok, lacks}, v1 + ", " + a},
		{[3]codes.Code{lacks, hangs, lacks}, a},
		{[3]codes.Code{hangs, hangs, lacks}, v1 + ", " + a},
		{[3]codes.Code{hangs, hangs, hangs}, ""},
		{[3]codes.Code{breaks, ok, ok}, ""},
		{[3]codes.Code{lacks, cut, ok}, ""},
	} {
		var errs []error
		for _, code := range test.ends {
			errs = append(errs, status.Error(code, "test"))
		}
		if got := served(errs).String(); got != test.want {
			t.Errorf("%v: got %q, want %q", test.ends, got, test.want)
		}
	}
}

// TestPeerRefusesVersion has a service that is there and fails.
func TestPeerRefusesVersion(t *testing.T) {
	backend := newBackend(t, proxytest.V1alpha2)
	backend.Handle("Version", func(*proxytest.Stream) error { return status.Error(codes.Unknown, "not yet") })
	conn, _ := connect(t, backend.Socket())
	if err := invoke(t, conn, statusV1); err != nil {
		t.Error(err)
	}
	want := Peer{}
	want.APIs.Add(api.V1alpha2)
	if got := conn.Peer(); got != want {
		t.Errorf("got %+v", got)
	}
}

// TestNotCRI has something else than a CRI runtime behind the socket.
func TestNotCRI(t *testing.T) {
	backend := newBackend(t, "nothing")
	conn, told := connect(t, backend.Socket())
	if err := invoke(t, conn, "/example.Unknown/Call"); err != nil {
		t.Error(err)
	}
	err := invoke(t, conn, statusV1)
	if got := status.Convert(err); got.Code() != codes.Unimplemented || got.Message() != "unknown service runtime.v1.RuntimeService" {
		t.Errorf("got %v", err)
	}
	until(t, "it is told of", func() bool { return len(told()) == 1 })
	if got := told()[0]; got != (Peer{}) {
		t.Errorf("told of %+v", got)
	}
}

// TestReplaced puts other releases in a runtime's place while calls are made: no
// call gets to one under a name that it does not serve.
func TestReplaced(t *testing.T) {
	backend := newBackend(t, proxytest.V1alpha1)
	release(backend, "0.8")
	conn, told := connect(t, backend.Socket())
	ctx, stopCalls := context.WithCancel(t.Context())
	var callers sync.WaitGroup
	for _, v := range api.Versions {
		method := api.Method{Version: v, Service: api.RuntimeService, Name: "Status"}.Path()
		callers.Go(func() {
			for ctx.Err() == nil {
				switch err := conn.Invoke(ctx, method, &message{}, &message{}); status.Code(err) {
				case codes.OK, codes.Unavailable, codes.Canceled:
				default:
					t.Errorf("%s: %v", method, err)
					return
				}
			}
		})
	}
	want := []Peer{peerOf("0.8", api.V1alpha1)}
	until(t, "the first is there", func() bool { return conn.Peer() == want[0] })
	for _, next := range []struct {
		release string
		api     api.Version
	}{{"1.0", api.V1alpha2}, {"1.0", api.V1alpha2}, {"1.1", api.V1alpha2}, {"1.1", api.V1}, {"0.8", api.V1alpha1}} {
		peer := peerOf(next.release, next.api)
		backend.Stop()
		backend.Serve(next.api.Package())
		release(backend, next.release)
		if err := backend.Restart(); err != nil {
			t.Fatal(err)
		}
		if want[len(want)-1] != peer {
			want = append(want, peer)
		}
		until(t, "calls reach the next", func() bool {
			return conn.Peer() == peer && invoke(t, conn, statusV1) == nil
		})
	}
	stopCalls()
	callers.Wait()
	got := told()
	if len(got) != len(want) {
		t.Fatalf("told of %+v, want %+v", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("told of %+v, want %+v", got[i], want[i])
		}
	}
}

// TestVersionHangs has a runtime that answers all but Version, and that in the
// end.
func TestVersionHangs(t *testing.T) {
	backend := newBackend(t, proxytest.V1alpha2)
	answer := make(chan struct{})
	backend.Handle("Version", func(s *proxytest.Stream) error {
		select {
		case <-answer:
			return s.Answer()
		case <-s.Context().Done():
			return s.Block()
		}
	})
	conn, told := connect(t, backend.Socket())
	for _, method := range []string{statusV1alpha2, statusV1} {
		if err := invoke(t, conn, method); err != nil {
			t.Errorf("%s: %v", method, err)
		}
	}
	if got := told(); len(got) != 1 || got[0].APIs.String() != "v1alpha2" || got[0].Name != "" {
		t.Errorf("told of %+v", got)
	}
	close(answer)
	until(t, "the name is there", func() bool { return conn.Peer().Name != "" })
	until(t, "it is told of", func() bool { return len(told()) == 2 })
	if got := told()[1]; got != conn.Peer() {
		t.Errorf("told of %+v", got)
	}
}

// TestSlowStart has a runtime that listens and serves nothing until the
// questions to it have timed out. A call waits, as it would without the proxy.
func TestSlowStart(t *testing.T) {
	dir, err := os.MkdirTemp("", "slow")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	socket := filepath.Join(dir, "runtime.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.ForceServerCodecV2(newCodec()), grpc.UnknownServiceHandler(serveV1alpha2))
	served := make(chan error, 1)
	conn, _ := connect(t, socket)
	called := make(chan error, 1)
	go func() { called <- invoke(t, conn, statusV1alpha2) }()
	first, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	// Its first word comes when nobody waits for an answer to Version any more.
	word := make([]byte, 1)
	if _, err := io.ReadFull(first, word); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-called:
		t.Fatalf("the call did not wait: %v", err)
	default:
	}
	go func() {
		served <- server.Serve(&lateListener{Listener: l, first: readConn{first, io.MultiReader(bytes.NewReader(word), first)}})
	}()
	defer func() {
		server.Stop()
		<-served
	}()
	if err := <-called; err != nil {
		t.Error(err)
	}
	until(t, "the bridge is there", func() bool { return invoke(t, conn, statusV1) == nil })
}

// serveV1alpha2 answers every call of v1alpha2 with an empty message.
func serveV1alpha2(_ any, s grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(s)
	if m, ok := api.ParseMethod(method); !ok || m.Version != api.V1alpha2 {
		return status.Errorf(codes.Unimplemented, "unknown method %s", method)
	}
	if err := s.RecvMsg(&message{}); err != nil {
		return err
	}
	return s.SendMsg(&message{})
}

// lateListener is a listener whose first connection was accepted before.
type lateListener struct {
	net.Listener
	first net.Conn // nil when it was given
}

func (l *lateListener) Accept() (net.Conn, error) {
	if conn := l.first; conn != nil {
		l.first = nil
		return conn, nil
	}
	return l.Listener.Accept()
}

// readConn is a connection that is read from elsewhere.
type readConn struct {
	net.Conn
	from io.Reader
}

func (c readConn) Read(b []byte) (int, error) { return c.from.Read(b) }

// until waits for a condition that no call waits for.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(30 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("waited in vain for this: %s", what)
		}
	}
}
