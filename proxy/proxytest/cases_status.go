package proxytest

import (
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// statusCases are about how calls end when the backend says how.
func statusCases() []testCase {
	return []testCase{
		{"every status code", everyCode},
		{"odd status messages", oddStatusMessages},
		{"status after some messages", statusAfterMessages},
		{"Unimplemented on the first Recv", unimplementedStream},
	}
}

// everyCode has calls fail with every code that gRPC has, and one that it does
// not have, with and without details.
func everyCode(s *session) {
	const stream = "/" + V1 + ".RuntimeService/GetContainerEvents"
	for code := codes.Canceled; code <= codes.Unauthenticated+1; code++ {
		message := fmt.Sprintf("this is code %d", code)
		for kind, err := range map[string]error{
			"plain":    status.Error(code, message),
			"detailed": detailed(code, message),
		} {
			for _, method := range unaryMethods()[:3] {
				s.handle(method, refusal(err))
				s.unary(s.ctx, fmt.Sprintf("%s %s %d", method, kind, code), method, requestFor(method))
			}
			s.handle(stream, refusal(err))
			s.ask(s.ctx, fmt.Sprintf("%s %s %d", stream, kind, code), stream, requestFor(stream)).drain()
		}
	}
}

func oddStatusMessages(s *session) {
	for i, err := range []error{
		status.Error(codes.Unknown, ""),
		status.Error(codes.NotFound, ""),
		detailed(codes.NotFound, ""),
		status.Error(codes.Unknown, "line one\nline two\ttab 100% %41 \"quoted\" é 日本 \x00"),
		errors.New("an error that is no status"),
		status.Error(codes.Internal, string(padded(3000)[10:])),
	} {
		for _, method := range unaryMethods() {
			s.handle(method, refusal(err))
			s.unary(s.ctx, fmt.Sprintf("%s %d", method, i), method, requestFor(method))
		}
	}
}

// statusAfterMessages has streams break off in good order: what came before
// the error counts.
func statusAfterMessages(s *session) {
	for _, method := range streamMethods() {
		s.handle(method, func(b *Stream) error {
			if _, err := b.RecvAll(); err != nil {
				return err
			}
			b.SetTrailer(someMetadata("trailer"))
			for i := range 5 {
				if err := b.Send(answerFor(method, i)); err != nil {
					return err
				}
			}
			return detailed(codes.DataLoss, "no more of it")
		})
		s.ask(s.ctx, method, method, requestFor(method)).drain()
	}
}

// unimplementedStream is what makes kubelet fall back from the streaming list
// calls to the unary ones.
func unimplementedStream(s *session) {
	for _, rpc := range RPCs() {
		if rpc.ServerStreams {
			method := rpc.Path(V1)
			s.handle(method, refusal(status.Errorf(codes.Unimplemented, "unknown method %s", rpc.Name)))
			s.ask(s.ctx, rpc.Name, method, requestFor(method)).drain()
		}
	}
}

// refusal answers with an error, having read the request.
func refusal(err error) Handler {
	return func(b *Stream) error {
		if _, err := b.RecvAll(); err != nil {
			return err
		}
		return err
	}
}
