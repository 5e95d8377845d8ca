package proxy

import (
	"context"

	"github.com/golang/glog"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// mend gives kubelet its own log path in a status, and holds back a status that
// says EXITED until the log is complete: who follows a log stops at the first
// EXITED (k8s.io/cri-client/pkg/logs). It reports whether it changed st.
func (s *Server) mend(ctx context.Context, st *runtimeapi.ContainerStatus) bool {
	if st.GetState() == runtimeapi.ContainerState_CONTAINER_EXITED {
		s.drain(ctx, st.GetId())
	}
	path := s.answeredLogPath(st)
	if path == st.LogPath {
		return false
	}
	st.LogPath = path
	return true
}

func (s *Server) mendAll(ctx context.Context, list []*runtimeapi.ContainerStatus) (changed bool) {
	for _, st := range list {
		if s.mend(ctx, st) {
			changed = true
		}
	}
	return changed
}

// rewrite parses an answer into m, and encodes it again if change says so. An
// answer that is not CRI passes as it is.
func rewrite(answer []byte, m proto.Message, change func() bool) []byte {
	if err := proto.Unmarshal(answer, m); err != nil {
		glog.Errorf("an answer of the runtime cannot be parsed as %s, passing it on: %v", m.ProtoReflect().Descriptor().FullName(), err)
		return answer
	}
	if !change() {
		return answer
	}
	changed, err := proto.Marshal(m)
	if err != nil {
		glog.Errorf("encode %s: %v", m.ProtoReflect().Descriptor().FullName(), err)
		return answer
	}
	return changed
}

func (s *Server) containerStatus(c *call) ([]byte, error) {
	answer, err := c.forward(c.request)
	if err != nil {
		return nil, err
	}
	var resp runtimeapi.ContainerStatusResponse
	return rewrite(answer, &resp, func() bool {
		return resp.Status != nil && s.mend(c.ctx, resp.Status)
	}), nil
}

func (s *Server) podSandboxStatus(c *call) ([]byte, error) {
	answer, err := c.forward(c.request)
	if err != nil {
		return nil, err
	}
	var resp runtimeapi.PodSandboxStatusResponse
	return rewrite(answer, &resp, func() bool { return s.mendAll(c.ctx, resp.ContainersStatuses) }), nil
}

func (s *Server) containerEvent(f *frame) (any, error) {
	answer := f.data.Materialize()
	f.data.Free()
	f.data = nil
	var event runtimeapi.ContainerEventResponse
	return &message{rewrite(answer, &event, func() bool {
		return s.mendAll(context.Background(), event.ContainersStatuses) // each drain is bounded
	})}, nil
}
