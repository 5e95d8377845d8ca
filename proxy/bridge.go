package proxy

import (
	"context"
	"fmt"
	"regexp"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"

	"github.com/cri-logproxy/cri-logproxy/proxy/api"
)

// NewStream opens a call under the version of CRI that the runtime serves;
// method is the client's. A message is in the terms of v1, whatever the
// versions; a frame is nobody's to translate, and no call with frames needs it.
func (c *runtimeConn) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	client, ok := api.ParseMethod(method)
	if !ok {
		return c.ClientConn.NewStream(ctx, desc, method, opts...)
	}
	c.awaitConnection(ctx)
	runtime := client.Under(c.Peer().APIs.Choose(client.Version))
	if runtime != client {
		method = runtime.Path()
	}
	stream, err := c.ClientConn.NewStream(ctx, desc, method, opts...)
	if err != nil {
		return nil, err
	}
	return &bridged{stream, c, client, runtime}, nil
}

// unary describes a call with one message each way.
var unary = &grpc.StreamDesc{}

// Invoke makes a unary call like NewStream.
func (c *runtimeConn) Invoke(ctx context.Context, method string, req, resp any, opts ...grpc.CallOption) error {
	stream, err := c.NewStream(ctx, unary, method, opts...)
	if err != nil {
		return err
	}
	if err := stream.SendMsg(req); err != nil {
		return err
	}
	return stream.RecvMsg(resp)
}

// awaitConnection waits while a connection is being made, as the call itself
// would, so that it is known who the call is for.
func (c *runtimeConn) awaitConnection(ctx context.Context) {
	for {
		state := c.GetState()
		switch state {
		case connectivity.Idle:
			c.Connect()
		case connectivity.Connecting:
		default:
			return
		}
		if !c.WaitForStateChange(ctx, state) {
			return // the call will say why
		}
	}
}

// bridged is a call of CRI at the runtime: as a method of the client's version, or
// of another.
type bridged struct {
	grpc.ClientStream
	conn            *runtimeConn
	client, runtime api.Method
}

// SendMsg translates what the proxy has looked at.
func (b *bridged) SendMsg(m any) error {
	if msg, ok := m.(*message); ok {
		m = &message{api.TranslateRequest(b.runtime.Name, api.V1, b.runtime.Version, msg.bytes)}
	}
	return b.ClientStream.SendMsg(m)
}

// RecvMsg translates what the proxy will look at, and the words of a status.
func (b *bridged) RecvMsg(m any) error {
	if err := b.ClientStream.RecvMsg(m); err != nil {
		if status.Code(err) == codes.Unimplemented && b.conn.Peer().APIs.Choose(b.client.Version) != b.runtime.Version {
			// gRPC had the call wait for the next connection, and that is to
			// another runtime.
			return status.Error(codes.Unavailable, "cri-logproxy: the runtime was replaced by another release during the call")
		}
		return reworded(err, b.client, b.runtime)
	}
	if msg, ok := m.(*message); ok {
		msg.bytes = api.TranslateAnswer(b.runtime.Name, b.runtime.Version, api.V1, msg.bytes)
	}
	return nil
}

// reworded gives the client's name of the service in an error of the runtime's,
// such as `unknown method X for service runtime.v1alpha2.RuntimeService`, for
// the client has never heard of that one.
func reworded(err error, client, runtime api.Method) error {
	st, ok := status.FromError(err)
	if !ok || client == runtime {
		return err
	}
	// Not where it is the end or the beginning of a longer name.
	name := regexp.MustCompile(`(^|[^.\w])` + regexp.QuoteMeta(runtime.FullService()) + `\b`)
	if !name.MatchString(st.Message()) {
		return err
	}
	p := st.Proto() // a copy
	p.Message = name.ReplaceAllString(p.Message, "${1}"+client.FullService()) + fmt.Sprintf(" [the runtime speaks CRI %v]", runtime.Version)
	return status.ErrorProto(p)
}
