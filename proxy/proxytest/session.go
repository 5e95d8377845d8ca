package proxytest

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// tagKey is the metadata key under which the suite gives each of its calls a
// name, by which the journal's entries are told apart and found again.
const tagKey = "proxytest-call"

// session is a case being played, with or without the proxy.
type session struct {
	*transcript

	backend *Backend
	socket  string           // what the client talks to
	conn    *grpc.ClientConn // to socket
	ctx     context.Context  // ends when the case has taken too long; no deadline

	mu       sync.Mutex
	offTrack []string // calls whose journal entries are not compared
}

// direct is the front that is none.
func (s *session) direct() string { return s.backend.Socket() }

// ignoreJournal leaves a call's journal entry out of the comparison, where it
// is chance what the backend sees of the call.
func (s *session) ignoreJournal(call string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.offTrack = append(s.offTrack, call)
}

// tagged names a call.
func tagged(ctx context.Context, call string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, tagKey, call)
}

// tagOf is the name of a journal entry's call, or "" if the suite did not make
// it.
func tagOf(c Call) string { return strings.Join(c.Metadata.Get(tagKey), ",") }

// waitFor waits until the call of that name has got that far at the backend.
func (s *session) waitFor(call string, far func(Call) bool) {
	err := s.backend.WaitFor(s.ctx, func(calls []Call) bool {
		return slices.ContainsFunc(calls, func(c Call) bool { return tagOf(c) == call && far(c) })
	})
	if err != nil {
		s.problem("%s: %v", call, err)
	}
}

// recordJournal waits for the backend to be done with every call, and notes
// what it saw.
func (s *session) recordJournal() {
	open := ""
	err := s.backend.WaitFor(s.ctx, func(calls []Call) bool {
		i := slices.IndexFunc(calls, func(c Call) bool { return tagOf(c) != "" && !c.Done })
		if i >= 0 {
			open = tagOf(calls[i])
		}
		return i < 0
	})
	if err != nil {
		s.problem("%s has not ended at the backend: %v", open, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.backend.Journal() {
		if tag := tagOf(c); tag != "" && !slices.Contains(s.offTrack, tag) {
			s.recordCall(tag, c)
		}
	}
}

func (s *session) recordCall(tag string, c Call) {
	s.noteText(tag+methodFact, "%s", c.Method)
	at := tag + " at the backend: "
	s.noteText(at+"metadata", "%s", showMetadata(c.Metadata))
	s.noteText(at+"authority", "%q", c.Authority)
	s.noteText(at+"content type", "%q", strings.TrimSuffix(c.ContentType, "+proto"))
	s.noteText(at+"half-closed", "%v", c.HalfClosed)
	s.noteText(at+"cancelled", "%v", c.Cancelled)
	// To the minute, so that what the way takes does not count.
	deadline := "none"
	if c.HasDeadline {
		deadline = c.Remaining.Round(time.Minute).String()
	}
	s.noteText(at+"deadline", "%s", deadline)
	for i, request := range c.Requests {
		s.noteMessage(at+"request "+number(i), c.Method, Request, request)
	}
}
