package proxytest

import (
	"errors"
	"io"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// metadataCases are about what travels beside the messages.
func metadataCases() []testCase {
	return []testCase{
		{"metadata of the request", requestMetadata},
		{"header and trailer", headerAndTrailer},
		{"header before the first message", earlyHeader},
		{"trailer of a refusal", trailerOfRefusal},
		{"deadline", deadline},
	}
}

func requestMetadata(s *session) {
	md := someMetadata("request")
	md.Set("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	md.Set("authorization", "Bearer token")
	ctx := metadata.NewOutgoingContext(s.ctx, md)
	for _, method := range unaryMethods() {
		s.unary(ctx, method, method, requestFor(method))
	}
	for _, method := range streamMethods() {
		s.ask(ctx, "stream "+method, method, requestFor(method)).drain()
	}
}

func headerAndTrailer(s *session) {
	answer := func(b *Stream) error {
		if err := b.SetHeader(someMetadata("header")); err != nil {
			return err
		}
		if err := b.SetHeader(metadata.Pairs("header-one", "another")); err != nil {
			return err
		}
		b.SetTrailer(someMetadata("trailer"))
		b.SetTrailer(metadata.Pairs("trailer-one", "another"))
		return b.Answer()
	}
	for _, method := range unaryMethods() {
		s.handle(method, answer)
		s.unary(s.ctx, method, method, requestFor(method))
	}
	for _, method := range streamMethods() {
		s.handle(method, answer)
		s.ask(s.ctx, "stream "+method, method, requestFor(method)).drain()
	}
}

// earlyHeader has the client wait for the header before it sends anything, and
// before the backend has sent anything else. Forwarding the header along with
// the first message would make both wait forever.
func earlyHeader(s *session) {
	s.handle(unknownService, func(b *Stream) error {
		if err := b.SendHeader(someMetadata("header")); err != nil {
			return err
		}
		return b.Answer()
	})
	x := s.open(s.ctx, "echo", unknownService)
	x.header()
	x.send([]byte("after the header"))
	x.take()
	x.halfClose()
	x.drain()

	const events = "/" + V1 + ".RuntimeService/GetContainerEvents"
	seen := make(chan struct{})
	s.handle(events, func(b *Stream) error {
		if _, err := b.RecvAll(); err != nil {
			return err
		}
		if err := b.SendHeader(someMetadata("header")); err != nil {
			return err
		}
		select {
		case <-seen:
		case <-b.Context().Done():
			return errors.New("the client did not see the header")
		}
		return b.Send(answerFor(events, 0))
	})
	x = s.ask(s.ctx, "events", events, requestFor(events))
	x.header()
	close(seen)
	x.drain()
}

func trailerOfRefusal(s *session) {
	refuse := func(b *Stream) error {
		if _, err := b.RecvAll(); err != nil {
			return err
		}
		b.SetTrailer(someMetadata("trailer"))
		return status.Error(codes.FailedPrecondition, "not now")
	}
	refuseWithHeader := func(b *Stream) error {
		if err := b.SendHeader(someMetadata("header")); err != nil {
			return err
		}
		return refuse(b)
	}
	for _, method := range unaryMethods() {
		s.handle(method, refuse)
		s.unary(s.ctx, method, method, requestFor(method))
		s.handle(method, refuseWithHeader)
		s.unary(s.ctx, "with header "+method, method, requestFor(method))
	}
	for _, method := range streamMethods() {
		s.handle(method, refuseWithHeader)
		s.ask(s.ctx, "stream "+method, method, requestFor(method)).drain()
	}
}

// deadline checks that the time left reaches the backend, that none is made
// up, and that a call whose time is over ends on both sides.
func deadline(s *session) {
	ctx, cancel := contextWithTimeout(s, time.Hour)
	defer cancel()
	short, cancelShort := contextWithTimeout(s, 100*time.Millisecond)
	defer cancelShort()
	for _, method := range unaryMethods() {
		s.unary(ctx, "in an hour "+method, method, requestFor(method))
		s.unary(s.ctx, "never "+method, method, requestFor(method))
	}
	for _, method := range streamMethods() {
		s.ask(ctx, "stream in an hour "+method, method, requestFor(method)).drain()
	}
	s.handle(unknownService, func(b *Stream) error {
		if _, err := b.Recv(); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		return b.Block()
	})
	s.unaryCode(short, "too late", unknownService, []byte("x"))
	s.ignoreJournal("too late") // how much of it got there is chance
}
