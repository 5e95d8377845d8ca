package proxytest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/metadata"
)

// Call is what the backend saw of one call.
type Call struct {
	// Method is the full method name, "/runtime.v1.RuntimeService/Version".
	Method string
	// Metadata is what the client sent along, without what the transport
	// itself adds. The headers that it adds have fields of their own below.
	Metadata metadata.MD
	// Authority, ContentType and UserAgent are the headers of that name.
	Authority, ContentType, UserAgent string
	// HasDeadline tells whether the call had one, and Remaining how far away
	// it was when the call came in.
	HasDeadline bool
	Remaining   time.Duration
	// Requests are the messages received so far. They are shared between
	// copies of the journal and must not be changed.
	Requests [][]byte
	// HalfClosed tells that the client has said that it will send no more.
	HalfClosed bool
	// Done tells that the backend has finished with the call, and Cancelled
	// that the call's context had ended by then.
	Done, Cancelled bool
}

// journal is the list of all calls, in the order in which they came in.
type journal struct {
	mu      sync.Mutex
	calls   []*Call
	changed chan struct{} // closed, and replaced, at every change
}

func newJournal() *journal {
	return &journal{changed: make(chan struct{})}
}

// add enters a call.
func (j *journal) add(call *Call) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.calls = append(j.calls, call)
	j.wake()
}

// update changes a call that was entered before.
func (j *journal) update(change func()) {
	j.mu.Lock()
	defer j.mu.Unlock()
	change()
	j.wake()
}

func (j *journal) wake() {
	close(j.changed)
	j.changed = make(chan struct{})
}

// snapshot returns a copy, and a channel that is closed at the next change.
func (j *journal) snapshot() ([]Call, <-chan struct{}) {
	j.mu.Lock()
	defer j.mu.Unlock()
	calls := make([]Call, len(j.calls))
	for i, call := range j.calls {
		calls[i] = *call
		calls[i].Requests = slices.Clone(call.Requests)
		calls[i].Metadata = maps.Clone(call.Metadata)
	}
	return calls, j.changed
}

// Journal returns a copy of all calls so far, in the order in which they came
// in.
func (b *Backend) Journal() []Call {
	calls, _ := b.journal.snapshot()
	return calls
}

// WaitFor returns when the journal is as the caller wants it, or ctx ends. It
// looks again whenever a call comes in, receives a message, or ends.
func (b *Backend) WaitFor(ctx context.Context, enough func([]Call) bool) error {
	for {
		calls, changed := b.journal.snapshot()
		if enough(calls) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("waiting for calls to reach the backend, which has seen %d: %w", len(calls), context.Cause(ctx))
		}
	}
}
