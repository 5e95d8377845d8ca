package proxy

import (
	"context"
	"time"

	"github.com/golang/glog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
)

// MaxMessageSize is the largest message that is received from either side, in
// bytes: what kubelet's client and containerd take
// (k8s.io/cri-client/pkg/utils.go). Sending has no limit of its own, so that
// the refusal of a larger one reads as it does without a proxy.
const MaxMessageSize = 16 << 20

// Windows are what a peer may send before it is read, in bytes. They are fixed:
// gRPC's own measuring of them costs a ping and its answer for every message.
// What a client does not read is held back in the runtime, beyond one window.
const (
	streamWindow = 1 << 20
	connWindow   = 16 << 20 // gRPC takes a connection's messages off without waiting for their readers
)

// dialRuntime makes the connection to the runtime at a unix socket. The runtime
// need not be there: calls answer Unavailable at once until it is.
func dialRuntime(socket string) (*grpc.ClientConn, error) {
	return grpc.NewClient("unix://"+socket,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithAuthority("localhost"), // as kubelet's; some servers refuse a path there
		grpc.WithDisableRetry(),         // kubelet retries, and a frame can be sent only once
		grpc.WithDisableServiceConfig(),
		grpc.WithIdleTimeout(0),
		grpc.WithStaticStreamWindowSize(streamWindow),
		grpc.WithStaticConnWindowSize(connWindow),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: 5 * time.Second,
		}),
		grpc.WithDefaultCallOptions(
			grpc.ForceCodecV2(newCodec()),
			grpc.MaxCallRecvMsgSize(MaxMessageSize),
		),
	)
}

// reconnectAfter is the time between two connections, unless a call wants one.
const reconnectAfter = time.Second

// watchRuntime keeps the connection up until ctx ends, says when the runtime
// goes and when it is back, and calls onReady each time that it is there, and
// again after the time that onReady returns, if it is not 0.
func watchRuntime(ctx context.Context, conn *grpc.ClientConn, socket string, onReady func(context.Context) time.Duration) {
	var down, connected time.Time
	hangsUp := false
	for ctx.Err() == nil {
		var again time.Duration
		state := conn.GetState()
		switch state {
		case connectivity.Idle:
			if early := reconnectAfter - time.Since(connected); early > 0 {
				if !hangsUp {
					glog.Errorf("the runtime at %s hangs up as soon as it is connected; calls get Unavailable", socket)
				}
				hangsUp = true
				waitForChange(ctx, conn, state, early) // a call connects, too
			} else {
				hangsUp = false
			}
			connected = time.Now()
			conn.Connect()
		case connectivity.TransientFailure:
			if down.IsZero() {
				down = time.Now()
				glog.Errorf("the runtime at %s does not answer; calls get Unavailable until it does: start it, or correct --runtime-endpoint", socket)
			}
		case connectivity.Ready:
			if !down.IsZero() {
				glog.Infof("the runtime at %s answers, after %v", socket, time.Since(down).Round(time.Millisecond))
				down = time.Time{}
			}
			again = onReady(ctx)
		}
		waitForChange(ctx, conn, state, again)
	}
}

// waitForChange waits until the connection has left state, or for a time that
// is not 0, or until ctx ends.
func waitForChange(ctx context.Context, conn *grpc.ClientConn, state connectivity.State, limit time.Duration) {
	if limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	conn.WaitForStateChange(ctx, state)
}
