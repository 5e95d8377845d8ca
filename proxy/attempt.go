package proxy

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/golang/glog"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-logproxy/cri-logproxy/proxy/logmap"
	"github.com/cri-logproxy/cri-logproxy/proxy/personality"
)

// containerRequest is a request about one container.
type containerRequest interface {
	proto.Message
	GetContainerId() string
}

// containerRequests are the unary calls about one container, which may be an
// attempt that only kubelet and the proxy tell from the others.
var containerRequests = map[string]containerRequest{
	"StartContainer":           (*runtimeapi.StartContainerRequest)(nil),
	"StopContainer":            (*runtimeapi.StopContainerRequest)(nil),
	"RemoveContainer":          (*runtimeapi.RemoveContainerRequest)(nil),
	"ReopenContainerLog":       (*runtimeapi.ReopenContainerLogRequest)(nil),
	"ContainerStatus":          (*runtimeapi.ContainerStatusRequest)(nil),
	"ContainerStats":           (*runtimeapi.ContainerStatsRequest)(nil),
	"UpdateContainerResources": (*runtimeapi.UpdateContainerResourcesRequest)(nil),
	"Exec":                     (*runtimeapi.ExecRequest)(nil),
	"ExecSync":                 (*runtimeapi.ExecSyncRequest)(nil),
	"Attach":                   (*runtimeapi.AttachRequest)(nil),
}

// who is what kubelet means by a container ID.
type who struct {
	id    string          // the runtime's, if it is there that the call belongs
	ended *logmap.Attempt // an attempt that is over, and that the runtime knows no more
	gone  bool            // an attempt that kubelet has removed
}

// who finds out what kubelet means by id.
func (s *Server) who(ctx context.Context, id string) who {
	if a, ok := s.logs.Attempt(id); ok {
		return who{ended: &a}
	}
	if record, ok := s.logs.ByKubeletID(id); ok {
		return who{id: record.ID}
	}
	if _, ok := s.logs.Container(id); ok {
		return who{gone: true} // it is another attempt's now
	}
	base, _, ok := personality.SplitAttemptID(id)
	if !ok || !s.has(personality.Attempts) {
		return who{id: id}
	}
	record, ok := s.container(ctx, base) // there may have been a record of it
	switch {
	case !ok:
		return who{id: id}
	case record.KubeletID == id:
		return who{id: base}
	}
	return who{gone: true}
}

// serve answers a call that is ours, or mended.
func (s *Server) serve(c *call, handle func(*Server, *call) ([]byte, error)) ([]byte, error) {
	s.runtime.awaitConnection(c.ctx) // or it is not known which repairs it needs
	prototype := containerRequests[c.name]
	if prototype == nil {
		return handle(s, c)
	}
	req := prototype.ProtoReflect().New()
	if !c.read(req.Interface()) {
		return c.forward(c.request)
	}
	id := req.Interface().(containerRequest).GetContainerId()
	switch w := s.who(c.ctx, id); {
	case w.ended != nil:
		return s.serveEnded(c, w.ended)
	case w.gone:
		return s.serveGone(c, id)
	case w.id != id:
		req.Set(req.Descriptor().Fields().ByName("container_id"), protoreflect.ValueOfString(w.id))
		request, err := proto.Marshal(req.Interface())
		if err != nil {
			return nil, status.Errorf(codes.Internal, "cri-logproxy: %v", err)
		}
		c.request = request
	}
	return handle(s, c)
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
	case "StopContainer":
		return nil, nil
	case "RemoveContainer":
		s.recorded(s.logs.RemoveAttempt(a.ID))
		glog.V(1).Infof("attempt %s of container %s: forgotten", a.ID, a.ContainerID)
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
// kubelet, which lists them all the time.
func (s *Server) endAttempts(ctx context.Context, before []logmap.Container, attempt uint32) (done func()) {
	if !s.has(personality.Attempts) {
		return func() {}
	}
	for _, old := range before {
		if old.Attempt != attempt {
			s.ending.Store(old.ID, s.lastStatus(ctx, old))
		}
	}
	return func() {
		for _, old := range before {
			s.ending.Delete(old.ID)
		}
	}
}

// recordEnded puts the attempt before record on record as one that is over.
func (s *Server) recordEnded(record logmap.Container) {
	last, ok := s.ending.Load(record.ID)
	if !ok {
		return
	}
	st := last.(*runtimeapi.ContainerStatus)
	encoded, err := proto.Marshal(st)
	if err != nil {
		glog.Errorf("encode the status of container %s: %v", st.Id, err)
		return
	}
	s.recorded(s.logs.PutAttempt(logmap.Attempt{ID: st.Id, ContainerID: record.ID, SandboxID: record.SandboxID, Status: encoded}))
}

// lastStatus is the status of a container whose attempt is over, for kubelet.
func (s *Server) lastStatus(ctx context.Context, old logmap.Container) *runtimeapi.ContainerStatus {
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	var resp runtimeapi.ContainerStatusResponse
	err := s.ask(ctx, "ContainerStatus", &runtimeapi.ContainerStatusRequest{ContainerId: old.ID}, &resp)
	st := resp.Status
	if err != nil || st == nil { // it may have lost it
		st = &runtimeapi.ContainerStatus{Id: old.ID, Metadata: &runtimeapi.ContainerMetadata{Name: old.Name}, Labels: s.labelsOf(old)}
	}
	st.LogPath = s.answeredLogPath(st)
	s.repairStatus(ctx, st)
	st.State = runtimeapi.ContainerState_CONTAINER_EXITED // it is about to be
	if st.FinishedAt == 0 {
		personality.Finish(st, time.Now().UnixNano())
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

// nameAttempt gives kubelet its own ID of a container that was created.
func (s *Server) nameAttempt(answer []byte, resp *runtimeapi.CreateContainerResponse) []byte {
	record, ok := s.logs.Container(resp.ContainerId)
	if !ok || record.KubeletID == "" || record.KubeletID == resp.ContainerId {
		return answer
	}
	resp.ContainerId = record.KubeletID
	named, err := proto.Marshal(resp)
	if err != nil {
		glog.Errorf("encode the answer to CreateContainer: %v", err)
		return answer
	}
	return named
}

// countAttempts corrects the attempt of a container that was put on record by
// its labels: a runtime that counts its first attempt only leaves it to the
// logs, as kubelet itself does.
func (s *Server) countAttempts(record *logmap.Container, annotations map[string]string) {
	if !s.has(personality.Attempts) || record.ContainerLog == "" {
		return
	}
	dir := filepath.Dir(record.ContainerLog)
	if last := lastAttempt(dir); last > record.Attempt {
		record.Attempt = last
		record.ContainerLog = filepath.Join(dir, strconv.FormatUint(uint64(last), 10)+".log")
	}
	record.KubeletID = personality.AttemptID(record.ID, record.Attempt)
	record.Annotations = maps.Clone(annotations)
	if _, ok := annotations[annotationRestartCnt]; ok {
		record.Annotations[annotationRestartCnt] = strconv.FormatUint(uint64(record.Attempt), 10)
	}
}

// lastAttempt is the highest attempt that has a log in a container's log
// directory.
func lastAttempt(dir string) uint32 {
	f, err := os.Open(dir)
	if err != nil {
		return 0
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		glog.Errorf("look for logs of earlier attempts: %v", err)
	}
	return personality.LastAttempt(names)
}
