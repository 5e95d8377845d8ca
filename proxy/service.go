package proxy

import (
	"context"

	"google.golang.org/grpc"

	"github.com/cri-logproxy/cri-logproxy/proxy/api"
	"github.com/cri-logproxy/cri-logproxy/proxy/personality"
)

// handler answers a unary call, whose messages are in the terms of v1.
type handler func(*Server, *call) ([]byte, error)

// calls are the unary calls that are ours. ReopenContainerLog may be answered
// without the runtime; all others are forwarded.
var calls = map[string]handler{
	"RunPodSandbox":      (*Server).runPodSandbox,
	"RemovePodSandbox":   (*Server).removePodSandbox,
	"CreateContainer":    (*Server).createContainer,
	"StartContainer":     (*Server).startContainer,
	"StopContainer":      (*Server).stopContainer,
	"RemoveContainer":    (*Server).removeContainer,
	"ReopenContainerLog": (*Server).reopenContainerLog,
	"ContainerStatus":    (*Server).containerStatus,
	"PodSandboxStatus":   (*Server).podSandboxStatus,
}

// repaired are the unary calls that pass as they are, unless a repair is in
// force.
var repaired = map[string]struct {
	repair *personality.Repair
	handle handler
}{
	"ListContainers":           {personality.Attempts, (*Server).listContainers},
	"UpdateContainerResources": {personality.Attempts, (*Server).pass},
	"Exec":                     {personality.Attempts, (*Server).pass},
	"ExecSync":                 {personality.Attempts, (*Server).pass},
	"Attach":                   {personality.Attempts, (*Server).pass},
	"ListContainerStats":       {personality.Stats, (*Server).listContainerStats},
	"ContainerStats":           {personality.Stats, (*Server).containerStats},
	"ImageFsInfo":              {personality.ImageFS, (*Server).imageFsInfo},
}

// streams are the server streams that are ours.
var streams = map[string]func(*Server, context.Context, *frame) (any, error){
	"GetContainerEvents": (*Server).containerEvent,
}

// serviceDesc describes the calls of a service of CRI that are unary, and the
// streams that are ours: gRPC gives every other method to the unknown-service
// handler.
func (s *Server) serviceDesc(version api.Version, cri grpc.ServiceDesc, name string) *grpc.ServiceDesc {
	service := api.Method{Version: version, Service: name}
	desc := &grpc.ServiceDesc{ServiceName: service.FullService(), HandlerType: (*any)(nil)}
	for _, unary := range cri.Methods {
		method := service
		method.Name = unary.MethodName
		path := method.Path()
		desc.Methods = append(desc.Methods, grpc.MethodDesc{
			MethodName: method.Name,
			Handler: func(_ any, ctx context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
				return s.unary(ctx, method, path, dec)
			},
		})
	}
	for _, stream := range cri.Streams {
		answer, ours := streams[stream.StreamName]
		if !ours {
			continue
		}
		method := service
		method.Name = stream.StreamName
		path := method.Path()
		desc.Streams = append(desc.Streams, grpc.StreamDesc{
			StreamName:    method.Name,
			ServerStreams: true,
			Handler: func(_ any, stream grpc.ServerStream) error {
				return s.relay(stream, path, func(f *frame) (any, error) { return answer(s, stream.Context(), f) })
			},
		})
	}
	return desc
}

// unary answers a call of which CRI says that it is unary; path is the method's,
// and dec reads its request.
func (s *Server) unary(ctx context.Context, method api.Method, path string, dec func(any) error) (any, error) {
	handle := s.handler(ctx, method.Name)
	if handle == nil {
		var request, answer frame
		err := dec(&request)
		if err == nil {
			err = s.code(method.Name, s.invoke(ctx, path, &request, &answer))
		}
		if err != nil {
			return nil, err
		}
		return &answer, nil
	}
	var request message
	if err := dec(&request); err != nil {
		return nil, err
	}
	translated := api.TranslateRequest(method.Name, method.Version, api.V1, request.bytes)
	answer, err := s.serve(&call{ctx: ctx, server: s, method: path, name: method.Name, request: translated}, handle)
	if err != nil {
		return nil, err
	}
	return &message{api.TranslateAnswer(method.Name, api.V1, method.Version, answer)}, nil
}

// handler is what answers a call; nil for one that passes as it is.
func (s *Server) handler(ctx context.Context, name string) handler {
	if handle, ours := calls[name]; ours {
		return handle
	}
	r, ok := repaired[name]
	if !ok {
		return nil
	}
	s.runtime.awaitConnection(ctx) // or it is not known which repairs it needs
	if !s.has(r.repair) {
		return nil
	}
	return r.handle
}

// pass forwards a call whose request has been seen to.
func (s *Server) pass(c *call) ([]byte, error) { return c.forward(c.request) }
