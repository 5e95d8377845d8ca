package proxytest

import (
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// streamCases are about the order of events within a call.
func streamCases() []testCase {
	return []testCase{
		{"half-close", halfClose},
		{"backend ends first", backendEndsFirst},
		{"backend ends before any message", backendEndsAtOnce},
		{"slow reader", slowReader},
	}
}

// halfClose has the backend speak before and after the client has said that it
// will not.
func halfClose(s *session) {
	s.handle(unknownService, func(b *Stream) error {
		if err := b.Send([]byte("welcome")); err != nil {
			return err
		}
		msgs, err := b.RecvAll()
		if err != nil {
			return err
		}
		for _, msg := range msgs {
			if err := b.Send(msg); err != nil {
				return err
			}
		}
		return b.Send([]byte("farewell"))
	})
	x := s.open(s.ctx, "talk", unknownService)
	x.take()
	x.send([]byte("one"))
	x.send([]byte("two"))
	x.halfClose()
	x.drain()
}

// backendEndsFirst has the backend end a call of which the client still has
// its half open.
func backendEndsFirst(s *session) {
	s.handle(unknownService, func(b *Stream) error {
		msg, err := b.Recv()
		if err != nil {
			return err
		}
		b.SetTrailer(someMetadata("trailer"))
		if err := b.Send(msg); err != nil {
			return err
		}
		if string(msg) == "fine" {
			return nil
		}
		return status.Error(codes.Aborted, "enough")
	})
	for _, msg := range []string{"fine", "not fine"} {
		x := s.open(s.ctx, msg, unknownService)
		x.send([]byte(msg))
		x.drain()
	}
}

// backendEndsAtOnce has the backend refuse a call before it has any message.
func backendEndsAtOnce(s *session) {
	s.handle(unknownService, func(b *Stream) error {
		b.SetTrailer(someMetadata("trailer"))
		return detailed(codes.PermissionDenied, "not you")
	})
	s.open(s.ctx, "call", unknownService).drain()
}

// slowReader leaves streams unread until they are stuck and makes other calls
// on the same connection meanwhile. Then it reads: nothing may be missing.
func slowReader(s *session) {
	const events = "/" + V1 + ".RuntimeService/GetContainerEvents"
	const messages, size = 128, 32 << 10
	s.handle(events, func(b *Stream) error {
		if _, err := b.RecvAll(); err != nil {
			return err
		}
		for i := range messages {
			if err := b.Send(padded(size + i)); err != nil {
				return err
			}
		}
		return nil
	})
	x := s.ask(s.ctx, "events", events, requestFor(events))
	x.take()
	for i := range 50 {
		method := unaryMethods()[0]
		s.unary(s.ctx, "meanwhile "+number(i), method, requestFor(method))
	}
	x.drain()
}
