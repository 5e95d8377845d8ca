package proxytest

import (
	"context"
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
)

// Direction tells requests from answers.
type Direction int

// The directions of a message.
const (
	Request Direction = iota
	Answer
)

// Front puts a proxy in front of a backend and returns the socket on which the
// proxy serves. It returns when calls can be made, and leaves the taking down
// to t.Cleanup. It is called for every case anew.
type Front func(t *testing.T, backend *Backend) (socket string)

// Rewrite changes a message as it is seen without the proxy into what it must
// be with it.
type Rewrite func(dir Direction, msg proto.Message)

// Options tell [Run] what a proxy is meant to do that is not forwarding. The
// zero value is a proxy that only forwards.
type Options struct {
	// Prepare sets a new backend up, before the front and also where there is
	// none; for a proxy that asks things of the runtime when it starts.
	Prepare func(*Backend)
	// Method maps the full name of a method as the client calls it to the one
	// under which it must reach the backend; for a proxy that renames the API.
	Method func(string) string
	// Expect has, by the bare names of RPCs ("ContainerStatus"), how messages
	// are expected to differ. Messages of these RPCs are compared by meaning,
	// so a Rewrite that does nothing allows for another encoding. All other
	// messages must be the same bytes.
	Expect map[string]Rewrite
	// Skip has, by the names of cases, why one is left out.
	Skip map[string]string

	directAPIs, throughAPIs []string // what the backend serves; nil for its default

	limit time.Duration // how long a case may take, default 30 s
}

// testCase is some calls, made in the same way with and without the proxy.
type testCase struct {
	name string
	run  func(*session)
}

// suite lists all cases.
func suite() []testCase {
	var all []testCase
	for _, cases := range [][]testCase{
		rpcCases(), metadataCases(), statusCases(), streamCases(), endCases(), sizeCases(), loadCases(),
	} {
		all = append(all, cases...)
	}
	return all
}

// Run runs every case twice as a subtest of t, directly and through front, and
// reports each difference as an error.
//
// Only calls that the suite itself makes are compared. A proxy is free to make
// others of its own as long as it does not pass a client's metadata off with
// them.
func Run(t *testing.T, front Front, opts Options) {
	t.Helper()
	for _, c := range suite() {
		t.Run(c.name, func(t *testing.T) {
			if reason, ok := opts.Skip[c.name]; ok {
				t.Skip(reason)
			}
			for _, m := range compare(t, c, front, opts) {
				t.Error(m)
			}
		})
	}
}

// compare plays a case directly and through front and returns what differs.
func compare(t *testing.T, c testCase, front Front, opts Options) []string {
	t.Helper()
	direct := play(t, c, (*session).direct, opts.directAPIs, opts)
	through := play(t, c, func(s *session) string { return front(t, s.backend) }, opts.throughAPIs, opts)
	if opts.Method != nil {
		direct.renameMethods(opts.Method)
	}
	found := append(direct.problemsAs("directly"), through.problemsAs("through the proxy")...)
	return append(found, direct.diff(through, opts.Expect)...)
}

// play runs a case against a new backend, through the socket that front gives
// it, and returns the transcript.
func play(t *testing.T, c testCase, front func(*session) string, apis []string, opts Options) *transcript {
	t.Helper()
	backend, err := NewBackend(BackendOptions{APIs: apis})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(backend.Close)
	if opts.Prepare != nil {
		opts.Prepare(backend)
	}
	s := &session{backend: backend, transcript: newTranscript()}
	s.socket = front(s)
	s.conn, err = Dial(s.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.conn.Close() }()

	limit := opts.limit
	if limit == 0 {
		limit = 30 * time.Second
	}
	ctx, stop := limited(limit)
	defer stop()
	s.ctx = ctx
	c.run(s)
	s.recordJournal()
	return s.transcript
}

// limited returns a context that ends after a time and yet has no deadline,
// which would reach the backend.
func limited(limit time.Duration) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(context.Background())
	timer := time.AfterFunc(limit, func() { cancel(fmt.Errorf("the case took longer than %v", limit)) })
	return ctx, func() {
		timer.Stop()
		cancel(nil)
	}
}
