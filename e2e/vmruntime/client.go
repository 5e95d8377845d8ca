package vmruntime

import (
	"context"
	"fmt"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Client calls a CRI server, a Runtime or a proxy in front of one, in one
// version of the API.
type Client struct {
	cri.RuntimeServiceClient
	cri.ImageServiceClient
	conn *grpc.ClientConn
}

// Dial returns a client of the server at a unix socket. It connects at the
// first call; the caller closes it.
func Dial(socket string, api API) (*Client, error) {
	conn, err := grpc.NewClient("unix://"+socket,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithAuthority("localhost"),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessageSize), grpc.MaxCallSendMsgSize(maxMessageSize)),
	)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", socket, err)
	}
	as := renamed{conn, api}
	return &Client{cri.NewRuntimeServiceClient(as), cri.NewImageServiceClient(as), conn}, nil
}

// Close closes the connection.
func (c *Client) Close() error { return c.conn.Close() }

// renamed sends calls of v1's generated clients under another version's name.
type renamed struct {
	grpc.ClientConnInterface
	api API
}

func (r renamed) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	return r.ClientConnInterface.Invoke(ctx, r.rename(method), args, reply, opts...)
}

func (r renamed) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	return r.ClientConnInterface.NewStream(ctx, desc, r.rename(method), opts...)
}

func (r renamed) rename(method string) string {
	return strings.Replace(method, string(V1)+".", string(r.api)+".", 1)
}
