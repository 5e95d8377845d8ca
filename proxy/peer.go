package proxy

import (
	"context"
	"net"
	"slices"
	"sync"

	"github.com/golang/glog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-logproxy/cri-logproxy/proxy/api"
	"github.com/cri-logproxy/cri-logproxy/proxy/logmap"
	"github.com/cri-logproxy/cri-logproxy/proxy/personality"
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
	p := Peer{APIs: served(errs)}
	for i := range answers {
		if a := &answers[i]; p.Name == "" {
			p.Name, p.Version, p.APIVersion = a.RuntimeName, a.RuntimeVersion, a.RuntimeApiVersion
		}
	}
	if p.APIs.Empty() {
		return Peer{}, errs[0]
	}
	return p, nil
}

// served is the versions that a runtime serves, by the ends of calls under each
// of api.Versions; none if they do not show it. A service that is not there is
// Unimplemented at once. One that refuses Version is there, and so is one that
// hangs while others answer.
func served(errs []error) (s api.Set) {
	hang := 0
	for i, v := range api.Versions {
		switch status.Code(errs[i]) {
		case codes.Unavailable, codes.Canceled: // the connection has failed
			return api.Set{}
		case codes.Unimplemented:
		case codes.DeadlineExceeded:
			hang++
			s.Add(v)
		default:
			s.Add(v)
		}
	}
	if hang == len(errs) {
		return api.Set{}
	}
	return s
}

// lastRuntime is the runtime that has told its name last, if one has, to begin
// with. In a state of a time before that was recorded, attempts have IDs of their
// own at none but Virtlet.
func (s *Server) lastRuntime() Peer {
	last := s.logs.Runtime()
	if last.Name == "" && slices.ContainsFunc(s.logs.Containers(), func(c logmap.Container) bool { return c.KubeletID != "" }) {
		last.Name = personality.Virtlet
		last.APIs.Add(api.V1alpha2)
	}
	return Peer{Name: last.Name, Version: last.Version, APIs: last.APIs}
}

// runtimeIs is called when a runtime is there that is not the one before, or has
// told more. One that has not told its name keeps the repairs that are in force.
func (s *Server) runtimeIs(p Peer) {
	if p.APIs.Empty() {
		glog.Errorf("the runtime at %s does not answer Version under any version of CRI: calls reach it under the names that they come by; is it a CRI runtime?", s.cfg.RuntimeSocket)
		return
	}
	if p.Name == "" {
		glog.Infof("the runtime at %s has not told its name yet; it has CRI %v; repairs of its answers, as of the last that has: %v", s.cfg.RuntimeSocket, p.APIs, s.repairs.Load())
		return
	}
	s.recorded(s.logs.PutRuntime(logmap.Runtime{Name: p.Name, Version: p.Version, APIs: p.APIs}))
	if s.cfg.Intercept != InterceptAnnotation && s.cfg.onlyAnnotated(p) {
		glog.Errorf("the runtime at %s is %s, whose pods are containers, not VMs: only those with the annotation %s=virtlet.cloud or virtlet are taken for VMs; point --runtime-endpoint at the runtime of the VMs, or say --intercept=annotation", s.cfg.RuntimeSocket, p.Name, TargetRuntimeAnnotation)
	}
	glog.Infof("the runtime at %s is %s %s, with CRI %v; repairs of its answers (see --personality): %v", s.cfg.RuntimeSocket, p.Name, p.Version, p.APIs, s.choose(p))
}
