package proxy

import (
	"context"
	"net"
	"sync"

	"github.com/golang/glog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-logproxy/cri-logproxy/proxy/api"
)

// Peer is the runtime at the other end of a connection, as far as it has told.
type Peer struct {
	// APIs are the versions of CRI that it serves; none if that is not known.
	APIs api.Set
	// Name, Version and APIVersion are its own words. They may be empty.
	Name, Version, APIVersion string
}

// askPeer asks the runtime at a socket for its Version under each version of
// CRI, all at once: none has to wait for one that hangs. It asks on a connection
// of its own. Where it serves none, err is how the newest version's call has ended.
func askPeer(ctx context.Context, dial func(context.Context) (net.Conn, error)) (Peer, error) {
	conn, err := grpc.NewClient("passthrough:///runtime",
		append(connOptions(), grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return dial(ctx) }))...)
	if err != nil {
		return Peer{}, err
	}
	defer conn.Close()
	answers := make([]runtimeapi.VersionResponse, len(api.Versions))
	errs := make([]error, len(api.Versions))
	var wg sync.WaitGroup
	for i, v := range api.Versions {
		version := api.Method{Version: v, Service: api.RuntimeService, Name: "Version"}
		wg.Go(func() {
			errs[i] = conn.Invoke(ctx, version.Path(), &runtimeapi.VersionRequest{}, &answers[i])
		})
	}
	wg.Wait()
	var p Peer
	for i, v := range api.Versions {
		if !serves(errs[i]) {
			continue
		}
		p.APIs.Add(v)
		if a := &answers[i]; p.Name == "" {
			p.Name, p.Version, p.APIVersion = a.RuntimeName, a.RuntimeVersion, a.RuntimeApiVersion
		}
	}
	if p.APIs.Empty() {
		return p, errs[0]
	}
	return p, nil
}

// serves says whether the end of a call shows that its service is there: it
// answered, if only with an error. The codes left out are those of a call that
// may have reached nobody.
func serves(err error) bool {
	switch status.Code(err) {
	case codes.Unimplemented, codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
		return false
	}
	return true
}

// runtimeIs is called when a runtime is there that is not the one before.
func (s *Server) runtimeIs(p Peer) {
	repairs := s.choose(p)
	if p.APIs.Empty() {
		glog.Errorf("the runtime at %s does not answer Version under any version of CRI: calls reach it under the names that they come by; is it a CRI runtime?", s.cfg.RuntimeSocket)
		return
	}
	glog.Infof("the runtime at %s is %s %s, with CRI %v; repairs of its answers (see --personality): %v", s.cfg.RuntimeSocket, p.Name, p.Version, p.APIs, repairs)
}
