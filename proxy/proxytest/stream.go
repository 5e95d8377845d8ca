package proxytest

import (
	"context"
	"errors"
	"io"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// Handler answers one call. What it returns is the call's status.
type Handler func(*Stream) error

// Stream is a call that the backend is answering. Every call is one, also the
// unary ones, which look no different on the wire. A handler uses it from one
// goroutine for receiving and one for sending.
type Stream struct {
	grpc    grpc.ServerStream
	journal *journal
	call    *Call
}

// Context ends when the client cancels, its deadline passes or its connection
// is lost.
func (s *Stream) Context() context.Context { return s.grpc.Context() }

// Method is the full method name.
func (s *Stream) Method() string { return s.call.Method }

// Recv returns the next message of the client, or io.EOF when it has
// half-closed.
func (s *Stream) Recv() ([]byte, error) {
	var f frame
	err := s.grpc.RecvMsg(&f)
	switch {
	case err == nil:
		s.journal.update(func() { s.call.Requests = append(s.call.Requests, f.data) })
	case errors.Is(err, io.EOF):
		s.journal.update(func() { s.call.HalfClosed = true })
	}
	return f.data, err
}

// RecvAll returns all messages of the client, up to its half-close.
func (s *Stream) RecvAll() ([][]byte, error) {
	var all [][]byte
	for {
		msg, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		all = append(all, msg)
	}
}

// Send sends one message.
func (s *Stream) Send(msg []byte) error { return s.grpc.SendMsg(&frame{msg}) }

// SetHeader adds to the header, which goes out with the first message.
func (s *Stream) SetHeader(md metadata.MD) error { return s.grpc.SetHeader(md) }

// SendHeader adds to the header and sends it now.
func (s *Stream) SendHeader(md metadata.MD) error { return s.grpc.SendHeader(md) }

// SetTrailer adds to the trailer, which goes out with the status.
func (s *Stream) SetTrailer(md metadata.MD) { s.grpc.SetTrailer(md) }

// Block waits for the call's context to end and returns its error as a status.
func (s *Stream) Block() error {
	<-s.Context().Done()
	return status.FromContextError(s.Context().Err()).Err()
}

// Answer does what the backend does where nobody told it otherwise. An RPC of
// CRI is answered with a populated message, or three if it streams; the
// messages are those of [DefaultAnswer]. Any other method is an echo: each
// message is sent back as it came.
func (s *Stream) Answer() error {
	rpc, ok := findRPC(s.Method())
	if !ok {
		return s.echo()
	}
	if _, err := s.RecvAll(); err != nil {
		return err
	}
	count := 1
	if rpc.ServerStreams {
		count = 3
	}
	for i := range count {
		if err := s.Send(spoken(s.Method(), DefaultAnswer(rpc, i))); err != nil {
			return err
		}
	}
	return nil
}

func (s *Stream) echo() error {
	for {
		msg, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := s.Send(msg); err != nil {
			return err
		}
	}
}

// DefaultAnswer is the message that the backend sends as its i-th answer to an
// RPC for which there is no handler.
func DefaultAnswer(rpc RPC, i int) proto.Message {
	answer := rpc.NewAnswer()
	Populate(answer, i+1)
	return answer
}

// Typed makes a handler of a function on decoded messages in the terms of v1,
// for a unary RPC.
func Typed[Request, Answer proto.Message](answer func(context.Context, Request) (Answer, error)) Handler {
	return func(s *Stream) error {
		msgs, err := s.RecvAll()
		if err != nil {
			return err
		}
		var request Request
		request = request.ProtoReflect().New().Interface().(Request)
		for _, msg := range msgs {
			if err := (proto.UnmarshalOptions{Merge: true}).Unmarshal(msg, request); err != nil {
				return err
			}
		}
		if service, _ := splitMethod(s.Method()); inPackage(service, V1alpha1) {
			fromBools(request)
		}
		a, err := answer(s.Context(), request)
		if err != nil {
			return err
		}
		return s.Send(spoken(s.Method(), a))
	}
}

// newCall notes what is known of a call when it comes in.
func newCall(ctx context.Context, method string) *Call {
	md, _ := metadata.FromIncomingContext(ctx)
	call := &Call{
		Method:      method,
		Metadata:    withoutTransport(md),
		Authority:   strings.Join(md.Get(":authority"), ","),
		ContentType: strings.Join(md.Get("content-type"), ","),
		UserAgent:   strings.Join(md.Get("user-agent"), ","),
	}
	if deadline, ok := ctx.Deadline(); ok {
		call.HasDeadline = true
		call.Remaining = time.Until(deadline)
	}
	return call
}

// withoutTransport copies metadata, leaving out what every hop says for
// itself.
func withoutTransport(md metadata.MD) metadata.MD {
	rest := md.Copy()
	for key := range rest {
		switch {
		case strings.HasPrefix(key, ":"), key == "content-type", key == "user-agent", key == "grpc-accept-encoding":
			delete(rest, key)
		}
	}
	return rest
}
