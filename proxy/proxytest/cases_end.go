package proxytest

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// endCases are about calls that somebody drops.
func endCases() []testCase {
	return []testCase{
		{"client cancels any RPC", clientCancels},
		{"client cancels a stream", clientCancelsStream},
		{"client goes away", clientGoesAway},
		{"backend dies in mid-call", backendDies},
		{"backend is away and comes back", backendComesBack},
	}
}

func contextWithTimeout(s *session, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(s.ctx, d)
}

// clientCancels cancels every RPC while the backend is at it, and has the
// backend notice: kubelet gives up on calls, and a runtime that is not told
// goes on with work that nobody waits for.
func clientCancels(s *session) {
	for _, rpc := range RPCs() {
		s.backend.Handle(rpc.Name, readAndBlock)
		method := rpc.Path(V1)
		ctx, cancel := context.WithCancel(s.ctx)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			if rpc.ServerStreams {
				s.ask(ctx, rpc.Name, method, requestFor(method)).code()
			} else {
				s.unaryCode(ctx, rpc.Name, method, requestFor(method))
			}
		}()
		s.waitFor(rpc.Name, halfClosed)
		cancel()
		<-ended
		s.waitFor(rpc.Name, func(c Call) bool { return c.Done })
	}
}

// clientCancelsStream cancels streams of which it has had some messages.
func clientCancelsStream(s *session) {
	for _, method := range streamMethods() {
		s.handle(method, func(b *Stream) error {
			if err := b.Send(answerFor(method, 0)); err != nil {
				return err
			}
			return readAndBlock(b)
		})
		ctx, cancel := context.WithCancel(s.ctx)
		x := s.ask(ctx, method, method, requestFor(method))
		x.take()
		s.waitFor(method, halfClosed)
		cancel()
		x.code()
	}
}

// clientGoesAway closes the connection under its calls, as a kubelet that is
// restarted does.
func clientGoesAway(s *session) {
	conn, err := Dial(s.socket)
	if err != nil {
		s.problem("second client: %v", err)
		return
	}
	var open []*exchange
	for _, method := range streamMethods() {
		s.handle(method, readAndBlock)
		x := s.openOn(s.ctx, conn, method, method)
		x.send(requestFor(method))
		x.halfClose()
		s.waitFor(method, halfClosed)
		open = append(open, x)
	}
	_ = conn.Close()
	for _, x := range open {
		x.code()
	}
}

// backendDies kills the backend under a unary call and under streams that have
// had two messages. The code must be the same; the message is the transport's.
func backendDies(s *session) {
	const unary = "/" + V1 + ".RuntimeService/Status"
	s.handle(unary, readAndBlock)
	var streams []*exchange
	for _, stream := range streamMethods() {
		s.handle(stream, func(b *Stream) error {
			for i := range 2 {
				if err := b.Send(answerFor(stream, i)); err != nil {
					return err
				}
			}
			return readAndBlock(b)
		})
		x := s.ask(s.ctx, stream, stream, requestFor(stream))
		x.take()
		x.take()
		s.waitFor(stream, halfClosed)
		streams = append(streams, x)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.unaryCode(s.ctx, "unary", unary, requestFor(unary))
	}()
	s.waitFor("unary", halfClosed)
	s.backend.Stop()
	<-ended
	for _, x := range streams {
		x.code()
	}
}

// backendComesBack calls a backend that is there, is not, and is again.
func backendComesBack(s *session) {
	const method = "/" + V1 + ".RuntimeService/Status"
	s.unary(s.ctx, "before", method, requestFor(method))
	s.backend.Stop()
	s.unaryCode(s.ctx, "away", method, requestFor(method))
	if err := s.backend.Restart(); err != nil {
		s.problem("%v", err)
		return
	}
	s.untilAvailable(method)
	s.unary(s.ctx, "after", method, requestFor(method))
}

// untilAvailable calls until the answer is not Unavailable. Nothing tells a
// client when a proxy is connected to the runtime again, so like kubelet's
// this one asks now and then.
func (s *session) untilAvailable(method string) {
	const call = "again and again"
	s.ignoreJournal(call)
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		err := s.conn.Invoke(tagged(s.ctx, call), method, &frame{requestFor(method)}, &frame{}, grpc.ForceCodecV2(rawCodec{}))
		if status.Code(err) != codes.Unavailable {
			return
		}
		select {
		case <-again.C:
		case <-s.ctx.Done():
			s.problem("the backend is back, and yet: %v", err)
			return
		}
	}
}

// readAndBlock takes all requests and then answers nothing until the call is
// cancelled.
func readAndBlock(b *Stream) error {
	if _, err := b.RecvAll(); err != nil {
		return err
	}
	return b.Block()
}

// halfClosed is for waitFor: the backend has the whole request.
func halfClosed(c Call) bool { return c.HalfClosed }
