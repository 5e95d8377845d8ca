package proxy

import (
	"context"

	"github.com/golang/glog"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// mend gives kubelet its own log paths in statuses, holds those back that say
// EXITED until the logs are complete, for who follows a log stops at the first
// EXITED (k8s.io/cri-client/pkg/logs), and repairs the rest. It reports whether
// it changed any.
func (s *Server) mend(ctx context.Context, list ...*runtimeapi.ContainerStatus) (changed bool) {
	var exited []string
	for _, st := range list {
		if st.GetState() == runtimeapi.ContainerState_CONTAINER_EXITED {
			exited = append(exited, st.GetId())
		}
		if path := s.answeredLogPath(ctx, st); path != st.LogPath {
			st.LogPath, changed = path, true
		}
	}
	s.drainAll(ctx, exited)
	for _, st := range list {
		if s.repairStatus(ctx, st) {
			changed = true
		}
	}
	return changed
}

// rewrite parses an answer into m, and encodes it again if change says so. An
// answer that is not CRI passes as it is.
func (s *Server) rewrite(answer []byte, m proto.Message, change func() bool) []byte {
	if err := proto.Unmarshal(answer, m); err != nil {
		if name := m.ProtoReflect().Descriptor().FullName(); s.faults.due(string(name)) {
			glog.Errorf("an answer of the runtime cannot be parsed as %s, passing it on: %v", name, err)
		}
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
	return s.rewrite(answer, &resp, func() bool {
		if resp.Status == nil {
			return false
		}
		s.learn(c, resp.Status)
		return s.mend(c.ctx, resp.Status)
	}), nil
}

// learn puts a running container of kubelet's on record that is not there.
func (s *Server) learn(c *call, st *runtimeapi.ContainerStatus) {
	_, known := s.logs.Container(st.GetId())
	if known || s.others.has(st.GetId()) || st.GetState() != runtimeapi.ContainerState_CONTAINER_RUNNING || st.GetLabels()[labelPodUID] == "" {
		return
	}
	s.container(c.ctx, st.GetId())
}

func (s *Server) podSandboxStatus(c *call) ([]byte, error) {
	answer, err := c.forward(c.request)
	if err != nil {
		return nil, err
	}
	var resp runtimeapi.PodSandboxStatusResponse
	return s.rewrite(answer, &resp, func() bool {
		changed := s.repairNamespaces(resp.Status)
		return s.mend(c.ctx, resp.ContainersStatuses...) || changed
	}), nil
}

func (s *Server) containerEvent(ctx context.Context, f *frame) (any, error) {
	answer := f.data.Materialize()
	f.data.Free()
	f.data = nil
	var event runtimeapi.ContainerEventResponse
	return &message{s.rewrite(answer, &event, func() bool {
		return s.mend(ctx, event.ContainersStatuses...)
	})}, nil
}
