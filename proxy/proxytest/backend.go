package proxytest

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// MaxMessage is the size in bytes up to which kubelet, containerd and CRI-O
// take a message.
const MaxMessage = 16 << 20

// BackendOptions are the options of [NewBackend]. The zero value is usable.
type BackendOptions struct {
	// Socket is where to listen. By default it is in a new directory below
	// the system's one for temporary files, which Close removes.
	Socket string
	// APIs are the versions of CRI that are served. Services of any other
	// are unimplemented, in the words of a gRPC server that lacks them. The
	// default is V1 and V1alpha2.
	APIs []string
	// MaxMessage is the largest message that is received; default MaxMessage.
	MaxMessage int
}

// Backend is a CRI runtime that runs nothing and remembers every call. It
// serves all RPCs of cri-api, under each of its API versions, and any method
// of any service that is not CRI's.
type Backend struct {
	opts    BackendOptions
	tempDir string // to be removed by Close, or ""
	journal *journal

	handlersMu sync.Mutex
	handlers   map[string]Handler

	mu     sync.Mutex
	server *grpc.Server  // nil while stopped
	served chan struct{} // closed when server's Serve has returned
	closed bool
}

// NewBackend starts a backend.
func NewBackend(opts BackendOptions) (*Backend, error) {
	b := &Backend{
		opts:     opts,
		journal:  newJournal(),
		handlers: make(map[string]Handler),
	}
	if b.opts.APIs == nil {
		b.opts.APIs = []string{V1, V1alpha2}
	}
	if b.opts.MaxMessage == 0 {
		b.opts.MaxMessage = MaxMessage
	}
	if b.opts.Socket == "" {
		// The path of a socket is short: 107 bytes, which t.TempDir exceeds.
		dir, err := os.MkdirTemp("", "proxytest")
		if err != nil {
			return nil, fmt.Errorf("directory for the backend's socket: %w", err)
		}
		b.tempDir = dir
		b.opts.Socket = filepath.Join(dir, "runtime.sock")
	}
	if err := b.Restart(); err != nil {
		b.Close()
		return nil, err
	}
	return b, nil
}

// Socket is the path of the socket.
func (b *Backend) Socket() string { return b.opts.Socket }

// Handle has calls of a method answered by h, or by default again if h is nil.
// A method is a full name ("/runtime.v1.RuntimeService/Version", or any of any
// service) or the bare name of one of CRI ("Version"), which stands for it
// under every API version; the full name wins.
func (b *Backend) Handle(method string, h Handler) {
	b.handlersMu.Lock()
	defer b.handlersMu.Unlock()
	if h == nil {
		delete(b.handlers, method)
		return
	}
	b.handlers[method] = h
}

// Stop ends the backend as a crash would: the socket disappears, connections
// break, and the contexts of calls end. It does nothing to a stopped one.
func (b *Backend) Stop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stop()
}

// Restart brings the backend up again on the same path, stopping it first if
// need be. Journal and handlers stay.
func (b *Backend) Restart() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return fmt.Errorf("restart the backend on %s: it is closed", b.opts.Socket)
	}
	b.stop()
	listener, err := net.Listen("unix", b.opts.Socket)
	if err != nil {
		return fmt.Errorf("start the backend: %w", err)
	}
	server := grpc.NewServer(
		grpc.ForceServerCodecV2(rawCodec{}),
		grpc.UnknownServiceHandler(b.serve),
		grpc.MaxRecvMsgSize(b.opts.MaxMessage),
	)
	served := make(chan struct{})
	b.server, b.served = server, served
	go func() {
		defer close(served)
		_ = server.Serve(listener) // ends with an error only if Stop came first
	}()
	return nil
}

// Serve changes the API versions that are served, for the calls that come in from
// now on.
func (b *Backend) Serve(apis ...string) {
	b.handlersMu.Lock()
	defer b.handlersMu.Unlock()
	b.opts.APIs = apis
}

func (b *Backend) apis() []string {
	b.handlersMu.Lock()
	defer b.handlersMu.Unlock()
	return b.opts.APIs
}

// Close stops the backend for good and removes the directory that it made.
func (b *Backend) Close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stop()
	b.closed = true
	if b.tempDir != "" {
		_ = os.RemoveAll(b.tempDir)
	}
}

func (b *Backend) stop() {
	if b.server == nil {
		return
	}
	b.server.Stop()
	<-b.served
	b.server = nil
}

// serve is where every call comes in.
func (b *Backend) serve(_ any, ss grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(ss)
	s := &Stream{grpc: ss, journal: b.journal, call: newCall(ss.Context(), method)}
	b.journal.add(s.call)
	defer b.journal.update(func() {
		s.call.Done = true
		s.call.Cancelled = ss.Context().Err() != nil
	})
	return b.handler(method)(s)
}

// handler is what answers a method.
func (b *Backend) handler(method string) Handler {
	service, name := splitMethod(method)
	if isCRI(service) && !slices.ContainsFunc(b.apis(), func(api string) bool { return inPackage(service, api) }) {
		return func(*Stream) error {
			return status.Errorf(codes.Unimplemented, "unknown service %s", service)
		}
	}
	if rpc, ok := findRPC(method); ok && inPackage(service, V1alpha1) && !rpc.Exists(V1alpha1) {
		return func(*Stream) error {
			return status.Errorf(codes.Unimplemented, "unknown method %s for service %s", name, service)
		}
	}
	b.handlersMu.Lock()
	defer b.handlersMu.Unlock()
	if h := b.handlers[method]; h != nil {
		return h
	}
	if h := b.handlers[name]; h != nil && isCRI(service) {
		return h
	}
	return (*Stream).Answer
}

// inPackage reports whether a service is of that package and not of one whose
// name merely begins with it.
func inPackage(service, pkg string) bool {
	rest, ok := strings.CutPrefix(service, pkg+".")
	return ok && !strings.Contains(rest, ".")
}
