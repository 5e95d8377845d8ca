package proxy

import (
	"cmp"
	"context"
	"time"

	"github.com/golang/glog"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-logproxy/cri-logproxy/proxy/logmap"
	"github.com/cri-logproxy/cri-logproxy/proxy/personality"
)

// ended is the attempt that kubelet means by id, if it is over; else nil.
func (s *Server) ended(id string) *logmap.Attempt {
	if a, ok := s.ending.Load(id); ok {
		return a.(*logmap.Attempt)
	}
	if a, ok := s.logs.Attempt(id); ok {
		return &a
	}
	return nil
}

// allEnded are the attempts that are over, or about to be.
func (s *Server) allEnded() []logmap.Attempt {
	list := s.logs.Attempts()
	s.ending.Range(func(_, a any) bool {
		list = append(list, *a.(*logmap.Attempt))
		return true
	})
	return list
}

// serveEnded answers a call about an attempt whose place the next one has taken.
func (s *Server) serveEnded(c *call, a *logmap.Attempt) ([]byte, error) {
	switch c.name {
	case "ContainerStatus":
		st := &runtimeapi.ContainerStatus{}
		if err := proto.Unmarshal(a.Status, st); err != nil {
			return nil, status.Errorf(codes.Internal, "cri-logproxy: status of attempt %s: %v", a.ID, err)
		}
		return proto.Marshal(&runtimeapi.ContainerStatusResponse{Status: st})
	case "StopContainer", "RemoveContainer":
		return nil, nil
	}
	return nil, status.Errorf(codes.FailedPrecondition, "container %s is not running: its attempt is over", a.ID)
}

// serveGone answers a call about an attempt that was removed. Nothing of it may
// reach the runtime, which would take it for the present one.
func (s *Server) serveGone(c *call, id string) ([]byte, error) {
	if c.name == "RemoveContainer" {
		return nil, nil
	}
	return nil, status.Errorf(codes.NotFound, "container %s not found: its attempt was removed", id)
}

// endAttempts notes what the containers of a sandbox are before another attempt
// may take their IDs. Until the returned function is called they are that to
// kubelet, which lists them all the time, whatever the runtime makes of them.
func (s *Server) endAttempts(ctx context.Context, before []logmap.Container, attempt uint32) (done func()) {
	if !s.has(personality.Attempts) {
		return func() {}
	}
	var ending []*logmap.Attempt
	for _, old := range before {
		if personality.AttemptID(old.ID, attempt) == old.KnownAs() {
			continue // the same again
		}
		st, err := proto.Marshal(s.lastStatus(ctx, old))
		if err != nil {
			glog.Errorf("encode the status of container %s: %v", old.KnownAs(), err)
			continue
		}
		a := &logmap.Attempt{ID: old.KnownAs(), ContainerID: old.ID, SandboxID: old.SandboxID, Status: st}
		s.ending.Store(a.ID, a)
		ending = append(ending, a)
	}
	return func() {
		for _, a := range ending {
			if record, ok := s.logs.Container(a.ContainerID); ok && record.KnownAs() == a.ID && s.lost(ctx, a.ContainerID) {
				s.recorded(s.logs.PutAttempt(*a)) // it was removed, and no other took its place
			}
			s.ending.Delete(a.ID)
		}
	}
}

// dropAttempts forgets that attempts had IDs of their own, where a runtime lists
// their pods that does not get this repair: were it to get it again, kubelet would
// see two containers in one.
func (s *Server) dropAttempts(pods []*runtimeapi.PodSandbox) {
	if s.has(personality.Attempts) {
		return
	}
	listed := make(map[string]bool)
	for _, p := range pods {
		listed[p.Id] = true
	}
	for _, a := range s.logs.Attempts() {
		if listed[a.SandboxID] {
			s.recorded(s.logs.RemoveAttempt(a.ID))
		}
	}
	for _, record := range s.logs.Containers() {
		if listed[record.SandboxID] && record.KubeletID != "" {
			s.recorded(s.logs.ChangeContainer(record.ID, func(c *logmap.Container) { c.KubeletID = "" }))
		}
	}
}

// recordEnded puts an attempt on record as one that is over.
func (s *Server) recordEnded(old logmap.Container) {
	if a, ok := s.ending.Load(old.KnownAs()); ok {
		s.recorded(s.logs.PutAttempt(*a.(*logmap.Attempt)))
	}
}

// lastStatus is the status of a container whose attempt is over, for kubelet.
func (s *Server) lastStatus(ctx context.Context, old logmap.Container) *runtimeapi.ContainerStatus {
	st := &runtimeapi.ContainerStatus{}
	if a, ok := s.logs.Attempt(old.KnownAs()); ok && proto.Unmarshal(a.Status, st) == nil {
		return st // see endAttempts: it was over before
	}
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	var resp runtimeapi.ContainerStatusResponse
	err := s.ask(ctx, "ContainerStatus", &runtimeapi.ContainerStatusRequest{ContainerId: old.ID}, &resp)
	if st = resp.Status; err != nil || st == nil { // it may have lost it
		st = &runtimeapi.ContainerStatus{Id: old.ID, Metadata: &runtimeapi.ContainerMetadata{Name: old.Name}, Labels: s.labelsOf(old)}
	}
	st.LogPath = s.answeredLogPath(ctx, st)
	s.repairStatus(ctx, st)
	st.Id = old.KnownAs()
	if !old.Started || old.Starting {
		return st // CREATED: it never ran, as far as anybody knows
	}
	st.State = runtimeapi.ContainerState_CONTAINER_EXITED // it is about to be
	if st.FinishedAt == 0 {
		personality.Finish(st, cmp.Or(old.FinishedAt, time.Now().UnixNano()))
	}
	return st
}

// labelsOf are the labels that kubelet gives to a container.
func (s *Server) labelsOf(record logmap.Container) map[string]string {
	sandbox, _ := s.logs.Sandbox(record.SandboxID)
	return map[string]string{
		labelPodName: record.Pod, labelPodNamespace: record.Namespace,
		labelPodUID: sandbox.UID, labelContainerName: record.Name,
	}
}
