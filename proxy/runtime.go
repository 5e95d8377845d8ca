package proxy

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/golang/glog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
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

const (
	// versionTimeout bounds the questions for Version that hold a new connection up.
	versionTimeout = 2 * time.Second
	// learnTimeout bounds those that are asked later.
	learnTimeout = 10 * time.Second
)

// runtimeConn is the connection to the runtime. Its calls are the client's,
// whatever version of CRI the runtime serves (bridge.go). Each time that it
// connects, the runtime is asked what that is before the connection is used.
type runtimeConn struct {
	*grpc.ClientConn
	socket string

	peer atomic.Pointer[Peer] // another pointer at each connection; never nil

	reportMu sync.Mutex
	reported *Peer      // what onPeer has had last, or nil
	onPeer   func(Peer) // it may wait for a record, 2 s at most
}

// dialRuntime makes the connection to the runtime at a unix socket. The runtime
// need not be there: calls answer Unavailable at once until it is. onPeer is
// told of the runtime, and of each that takes its place, before the first call
// reaches it.
func dialRuntime(socket string, onPeer func(Peer)) (*runtimeConn, error) {
	c := &runtimeConn{socket: socket, onPeer: onPeer}
	c.peer.Store(&Peer{})
	conn, err := grpc.NewClient("unix://"+socket, append(connOptions(),
		grpc.WithContextDialer(c.dial),
		grpc.WithIdleTimeout(0),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: versionTimeout + 5*time.Second,
		}),
	)...)
	c.ClientConn = conn
	return c, err
}

// connOptions are what every connection to the runtime has.
func connOptions() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithAuthority("localhost"), // as kubelet's; some servers refuse a path there
		grpc.WithDisableRetry(),         // kubelet retries, and a frame can be sent only once
		grpc.WithDisableServiceConfig(),
		grpc.WithStaticStreamWindowSize(streamWindow),
		grpc.WithStaticConnWindowSize(connWindow),
		grpc.WithDefaultCallOptions(
			grpc.ForceCodecV2(newCodec()),
			grpc.MaxCallRecvMsgSize(MaxMessageSize),
		),
	}
}

// dial connects, and learns who is there. The connection is made first: were the
// runtime replaced in between, that one would be dead.
func (c *runtimeConn) dial(ctx context.Context, _ string) (net.Conn, error) {
	conn, err := c.dialSocket(ctx)
	if err != nil {
		return nil, err
	}
	asking, cancel := context.WithTimeout(ctx, versionTimeout)
	defer cancel()
	peer, err := askPeer(asking, c.dialSocket)
	c.peer.Store(&peer)
	if err == nil {
		c.report(&peer)
	}
	return conn, nil
}

func (c *runtimeConn) dialSocket(ctx context.Context) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "unix", c.socket)
}

// Peer is the runtime at the other end, or that was there last.
func (c *runtimeConn) Peer() Peer { return *c.peer.Load() }

// learn asks a runtime again that has not told its name. It may be slow to start.
func (c *runtimeConn) learn(ctx context.Context) {
	unknown := c.peer.Load()
	if unknown.Name != "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, learnTimeout)
	defer cancel()
	peer, err := askPeer(ctx, c.dialSocket)
	gone := status.Code(err) == codes.Unavailable || errors.Is(ctx.Err(), context.Canceled)
	if !c.peer.CompareAndSwap(unknown, &peer) || gone {
		return // the next connection asks
	}
	if err != nil {
		glog.V(1).Infof("Version under CRI v1: %v", err)
	}
	c.report(&peer)
}

// report says who the runtime is, where that is news.
func (c *runtimeConn) report(peer *Peer) {
	c.reportMu.Lock()
	defer c.reportMu.Unlock()
	switch {
	case c.peer.Load() != peer: // it is history already
		return
	case c.reported != nil && *c.reported == *peer:
		glog.V(1).Infof("the runtime at %s is the same as before", c.socket)
		return
	}
	c.reported = peer
	c.onPeer(*peer)
}

// reconnectAfter is the time between two connections, unless a call wants one.
const reconnectAfter = time.Second

// watchRuntime keeps the connection up until ctx ends, says when the runtime
// goes and when it is back, and calls onReady each time that it is there, and
// again after the time that onReady returns, if it is not 0.
func watchRuntime(ctx context.Context, conn *runtimeConn, onReady func(context.Context) time.Duration) {
	var down, connected time.Time
	hangsUp := false
	for ctx.Err() == nil {
		var again time.Duration
		state := conn.GetState()
		switch state {
		case connectivity.Idle:
			if early := reconnectAfter - time.Since(connected); early > 0 {
				if !hangsUp {
					glog.Errorf("the runtime at %s hangs up as soon as it is connected; calls get Unavailable", conn.socket)
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
				glog.Errorf("the runtime at %s does not answer; calls get Unavailable until it does: start it, or correct --runtime-endpoint", conn.socket)
			}
		case connectivity.Ready:
			if !down.IsZero() {
				glog.Infof("the runtime at %s answers, after %v", conn.socket, time.Since(down).Round(time.Millisecond))
				down = time.Time{}
			}
			conn.learn(ctx)
			peer := conn.peer.Load()
			again = onReady(ctx)
			if conn.peer.Load() != peer {
				continue // it was to another connection
			}
			if peer.Name == "" && again == 0 {
				again = reconcileAgain // it may tell yet
			}
		}
		waitForChange(ctx, conn, state, again)
	}
}

// waitForChange waits until the connection has left state, or for a time that
// is not 0, or until ctx ends.
func waitForChange(ctx context.Context, conn *runtimeConn, state connectivity.State, limit time.Duration) {
	if limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	conn.WaitForStateChange(ctx, state)
}
