package proxytest

import (
	"fmt"

	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// rpcCases make every call that cri-api has, and some that it does not have.
func rpcCases() []testCase {
	return []testCase{
		{"every RPC of v1", func(s *session) { everyRPC(s, V1) }},
		{"every RPC of v1alpha2", func(s *session) { everyRPC(s, V1alpha2) }},
		{"every RPC fails with details", everyRPCFails},
		{"empty messages", emptyMessages},
		{"unknown service", func(s *session) { echoes(s, unknownService) }},
		{"unknown method of a known service", func(s *session) { echoes(s, unknownMethod) }},
		{"unknown API version", unknownVersion},
		{"generated client", generatedClient},
	}
}

// everyRPC calls every RPC with every field of its request set, and has header
// and trailer come back with the answer.
func everyRPC(s *session, api string) {
	for i, rpc := range RPCs() {
		s.backend.Handle(rpc.Name, func(b *Stream) error {
			b.SetTrailer(someMetadata("trailer"))
			if err := b.SetHeader(someMetadata("header")); err != nil {
				return err
			}
			return b.Answer()
		})
		method := rpc.Path(api)
		request := populated(rpc.NewRequest(), i+1)
		if rpc.ServerStreams {
			s.ask(s.ctx, rpc.Name, method, request).drain()
		} else {
			s.unary(s.ctx, rpc.Name, method, request)
		}
	}
}

// everyRPCFails has every RPC refused, with all that a refusal can carry.
func everyRPCFails(s *session) {
	for _, rpc := range RPCs() {
		s.backend.Handle(rpc.Name, func(b *Stream) error {
			if _, err := b.RecvAll(); err != nil {
				return err
			}
			b.SetTrailer(someMetadata("trailer"))
			return detailed(codes.NotFound, rpc.Name+": no such thing")
		})
		method := rpc.Path(V1)
		if rpc.ServerStreams {
			s.ask(s.ctx, rpc.Name, method, requestFor(method)).drain()
		} else {
			s.unary(s.ctx, rpc.Name, method, requestFor(method))
		}
	}
}

// emptyMessages sends and answers messages of no bytes, which are messages all
// the same.
func emptyMessages(s *session) {
	for _, method := range unaryMethods() {
		s.handle(method, func(b *Stream) error {
			if _, err := b.RecvAll(); err != nil {
				return err
			}
			return b.Send(nil)
		})
		s.unary(s.ctx, method, method, nil)
	}
	for _, method := range streamMethods() {
		s.handle(method, func(b *Stream) error {
			if _, err := b.RecvAll(); err != nil {
				return err
			}
			for range 3 {
				if err := b.Send(nil); err != nil {
					return err
				}
			}
			return nil
		})
		s.ask(s.ctx, "stream "+method, method, nil).drain()
	}
}

// echoes calls a method that nobody knows in each of the ways there are.
func echoes(s *session, method string) {
	s.unary(s.ctx, "unary", method, requestFor(method))
	s.unary(s.ctx, "unary, any message", method, padded(1000))

	talk := s.open(s.ctx, "talk", method)
	for i := range 20 {
		talk.send([]byte(fmt.Sprintf("message %d", i)))
		talk.take() // before the next is sent
	}
	talk.halfClose()
	talk.drain()

	burst := s.open(s.ctx, "burst", method)
	for i := range 20 {
		burst.send([]byte(fmt.Sprintf("message %d", i)))
	}
	burst.halfClose()
	burst.drain()

	silent := s.open(s.ctx, "no message at all", method)
	silent.halfClose()
	silent.drain()
}

// unknownVersion calls an API version that the backend does not have.
func unknownVersion(s *session) {
	s.unary(s.ctx, "call", "/runtime.v9.RuntimeService/Version", []byte("not looked at"))
	s.ignoreJournal("call") // the status may arrive before the request is read
}

// generatedClient makes calls as kubelet does, with the generated code.
func generatedClient(s *session) {
	runtime := runtimeapi.NewRuntimeServiceClient(s.conn)
	version := &runtimeapi.VersionRequest{}
	Populate(version, 1)
	answer, err := runtime.Version(tagged(s.ctx, "version"), version)
	s.noteMessage("version: answer", "", Answer, encode(answer))
	s.noteText("version: status", "%s", showStatus(err))

	s.backend.Handle("ContainerStatus", func(*Stream) error {
		return detailed(codes.NotFound, "no such container")
	})
	_, err = runtime.ContainerStatus(tagged(s.ctx, "container"), &runtimeapi.ContainerStatusRequest{ContainerId: "x"})
	s.noteText("container: status", "%s", showStatus(err))
	s.ignoreJournal("container")

	stream, err := runtime.StreamPodSandboxes(tagged(s.ctx, "sandboxes"), &runtimeapi.StreamPodSandboxesRequest{})
	for i := 0; err == nil; i++ {
		var sandboxes *runtimeapi.StreamPodSandboxesResponse
		if sandboxes, err = stream.Recv(); err == nil {
			s.noteMessage("sandboxes: answer "+number(i), "", Answer, encode(sandboxes))
		}
	}
	s.noteText("sandboxes: end", "%v", err)
}
