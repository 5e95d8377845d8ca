package proxy

import (
	"context"
	"errors"
	"io"
	"path"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// anyStream describes a call of any kind: a unary call is a stream with one
// message each way.
var anyStream = &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}

// outgoing is a context for the call to the runtime: deadline, cancellation and
// metadata are the client's.
func outgoing(ctx context.Context) context.Context {
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		return metadata.NewOutgoingContext(ctx, md) // it is a copy
	}
	return ctx
}

// invoke makes a call with one message each way, with header and trailer passed
// back. It costs half of what relay does: one goroutine, one write each way.
func (s *Server) invoke(ctx context.Context, method string, request, answer any) error {
	var header, trailer metadata.MD
	err := s.runtime.Invoke(outgoing(ctx), method, request, answer, grpc.Header(&header), grpc.Trailer(&trailer))
	// These fail only where the call has ended already.
	_ = grpc.SetHeader(ctx, header)
	_ = grpc.SetTrailer(ctx, trailer)
	return err
}

// forward passes a call on as raw frames, whatever it is.
func (s *Server) forward(_ any, client grpc.ServerStream) error {
	method, ok := grpc.MethodFromServerStream(client)
	if !ok {
		return status.Error(codes.Internal, "cri-logproxy: a call without a method")
	}
	return s.relay(client, method, func(f *frame) (any, error) { return f, nil })
}

// relay opens the call at the runtime and pumps messages both ways. answer may
// replace what the runtime sends.
func (s *Server) relay(client grpc.ServerStream, method string, answer func(*frame) (any, error)) error {
	ctx, cancel := context.WithCancel(outgoing(client.Context()))
	defer cancel() // ends the pump that is left over, too
	runtime, err := s.runtime.NewStream(ctx, anyStream, method)
	if err != nil {
		return err
	}
	requestErr := make(chan error, 1)
	go func() { // ends with the call: its receive with client's context, its send with ctx
		if err := pumpRequests(client, runtime); err != nil {
			requestErr <- err
			cancel()
		}
	}()
	err = pumpAnswers(client, runtime, answer)
	client.SetTrailer(runtime.Trailer())
	select {
	case err := <-requestErr:
		return err // it is the cause of the other
	default:
		return s.code(path.Base(method), err)
	}
}

// pumpRequests passes the client's messages on, to its half-close.
func pumpRequests(client grpc.ServerStream, runtime grpc.ClientStream) error {
	for {
		f := &frame{}
		if err := client.RecvMsg(f); err != nil {
			if errors.Is(err, io.EOF) {
				return runtime.CloseSend()
			}
			return err
		}
		if err := runtime.SendMsg(f); err != nil {
			if errors.Is(err, io.EOF) {
				return nil // the runtime has answered already: pumpAnswers gets its status
			}
			return err
		}
	}
}

// pumpAnswers passes the runtime's header and messages on. It returns the
// runtime's status; nil for OK.
func pumpAnswers(client grpc.ServerStream, runtime grpc.ClientStream, answer func(*frame) (any, error)) error {
	// An answer that is a status alone has no header.
	if header, err := runtime.Header(); err == nil && len(header) > 0 {
		if err := client.SendHeader(header); err != nil {
			return err
		}
	}
	for {
		f := &frame{}
		if err := runtime.RecvMsg(f); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		msg, err := answer(f)
		if err != nil {
			return err
		}
		if err := client.SendMsg(msg); err != nil {
			return err
		}
	}
}
