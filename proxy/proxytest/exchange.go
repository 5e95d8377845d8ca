package proxytest

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// number makes the i-th of something sort in its place.
func number(i int) string { return fmt.Sprintf("%03d", i) }

// unary makes a unary call and notes how it ended.
func (s *session) unary(ctx context.Context, call, method string, request []byte) {
	s.unaryOn(ctx, s.conn, call, method, request)
}

// unaryOn is unary on a connection of the caller's.
func (s *session) unaryOn(ctx context.Context, conn *grpc.ClientConn, call, method string, request []byte) {
	var answer frame
	var header, trailer metadata.MD
	err := conn.Invoke(tagged(ctx, call), method, &frame{request}, &answer,
		grpc.ForceCodecV2(rawCodec{}), grpc.Header(&header), grpc.Trailer(&trailer))
	if err == nil {
		s.noteMessage(call+": answer 000", method, Answer, answer.data)
	}
	s.noteEnd(call, header, trailer, err)
}

// unaryCode makes a unary call and notes no more than its code: for calls
// whose end is worded by the transport.
func (s *session) unaryCode(ctx context.Context, call, method string, request []byte) {
	err := s.conn.Invoke(tagged(ctx, call), method, &frame{request}, &frame{}, grpc.ForceCodecV2(rawCodec{}))
	s.noteText(call+": code", "%v", status.Code(err))
}

func (s *session) noteEnd(call string, header, trailer metadata.MD, err error) {
	s.noteText(call+": header", "%s", showMetadata(header))
	s.noteText(call+": trailer", "%s", showMetadata(trailer))
	s.noteText(call+": status", "%s", showStatus(err))
}

// exchange is a streaming call, from the client's side.
type exchange struct {
	s            *session
	call, method string
	stream       grpc.ClientStream // nil if the call could not be opened
	taken        int
}

// open starts a streaming call. One that cannot be opened has ended, and is
// noted as such.
func (s *session) open(ctx context.Context, call, method string) *exchange {
	return s.openOn(ctx, s.conn, call, method)
}

// openOn is open on a connection of the caller's.
func (s *session) openOn(ctx context.Context, conn *grpc.ClientConn, call, method string) *exchange {
	x := &exchange{s: s, call: call, method: method}
	desc := &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}
	stream, err := conn.NewStream(tagged(ctx, call), desc, method, grpc.ForceCodecV2(rawCodec{}))
	if err != nil {
		s.noteEnd(call, nil, nil, err)
		return x
	}
	x.stream = stream
	return x
}

// ask opens a streaming call, sends one request and half-closes.
func (s *session) ask(ctx context.Context, call, method string, request []byte) *exchange {
	x := s.open(ctx, call, method)
	x.send(request)
	x.halfClose()
	return x
}

// send sends a message. If the call has ended, so says the next take.
func (x *exchange) send(msg []byte) {
	if x.stream != nil {
		_ = x.stream.SendMsg(&frame{msg})
	}
}

func (x *exchange) halfClose() {
	if x.stream != nil {
		_ = x.stream.CloseSend()
	}
}

// header waits for the header and notes it as the first sign of the backend.
func (x *exchange) header() {
	if x.stream != nil {
		md, err := x.stream.Header()
		x.s.noteText(x.call+": early header", "%s, error %v", showMetadata(md), err)
	}
}

// take notes the next message, or the end, and reports whether it was a
// message.
func (x *exchange) take() bool {
	if x.stream == nil {
		return false
	}
	var f frame
	err := x.stream.RecvMsg(&f)
	if err == nil {
		x.s.noteMessage(x.call+": answer "+number(x.taken), x.method, Answer, f.data)
		x.taken++
		return true
	}
	header, _ := x.stream.Header()
	trailer := x.stream.Trailer()
	x.stream = nil
	if errors.Is(err, io.EOF) {
		err = nil
	}
	x.s.noteEnd(x.call, header, trailer, err)
	return false
}

// drain takes everything up to the end.
func (x *exchange) drain() {
	for x.take() {
	}
}

// code waits for the end and notes no more of it than its code.
func (x *exchange) code() {
	if x.stream == nil {
		return
	}
	for {
		err := x.stream.RecvMsg(&frame{})
		if err == nil {
			continue
		}
		x.s.noteText(x.call+": code", "%v", status.Code(err))
		x.stream = nil
		return
	}
}
