package proxy

import (
	"cmp"
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
	if a := s.ended(id); a != nil {
		return who{ended: a}
	}
	if record, ok := s.logs.ByKubeletID(id); ok {
		return who{id: record.ID}
	}
	if _, ok := s.logs.Container(id); ok {
		return who{gone: true} // it is another attempt's now
	}
	if !s.has(personality.Attempts) {
		return who{id: id}
	}
	// There may have been a record of it.
	ids := []string{id}
	if base, _, ok := personality.SplitAttemptID(id); ok {
		ids = append(ids, base)
	}
	for _, runtimeID := range ids {
		if record, ok := s.container(ctx, runtimeID); ok {
			return who{id: runtimeID, gone: record.KnownAs() != id}
		}
	}
	return who{id: id}
}

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

// looks are the calls that tell of attempts and change nothing.
var looks = map[string]bool{"ContainerStatus": true, "ListContainers": true, "ListContainerStats": true, "PodSandboxStatus": true}

// serve answers a call that is ours, or mended. What was asked for while an
// attempt began is asked for again: it may be of the attempt before.
func (s *Server) serve(c *call, handle func(*Server, *call) ([]byte, error)) (answer []byte, err error) {
	s.runtime.awaitConnection(c.ctx) // or it is not known which repairs it needs
	request := c.request
	for range 3 {
		began := s.began.Load()
		c.request = request
		answer, err = s.serveOnce(c, handle)
		if !looks[c.name] || s.began.Load() == began || !s.has(personality.Attempts) {
			break
		}
	}
	return answer, err
}

func (s *Server) serveOnce(c *call, handle func(*Server, *call) ([]byte, error)) ([]byte, error) {
	prototype := containerRequests[c.name]
	if prototype == nil {
		return handle(s, c)
	}
	req := prototype.ProtoReflect().New()
	if !c.read(req.Interface()) {
		return c.forward(c.request)
	}
	id := req.Interface().(containerRequest).GetContainerId()
	w := s.who(c.ctx, id)
	if w.ended != nil && c.name == "RemoveContainer" {
		s.recorded(s.logs.RemoveAttempt(id))
		w = s.who(c.ctx, id) // the runtime has it all the same, if no other has taken its place
	}
	switch {
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

// dropAttempts forgets that attempts had IDs of their own. What is left on record
// of a time with this repair would have kubelet see two containers in one.
func (s *Server) dropAttempts() {
	for _, a := range s.logs.Attempts() {
		s.recorded(s.logs.RemoveAttempt(a.ID))
	}
	for _, record := range s.logs.Containers() {
		if record.KubeletID != "" {
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
	st.LogPath = s.answeredLogPath(st)
	s.repairStatus(ctx, st)
	st.Id = old.KnownAs()
	if !old.Started {
		return st // CREATED: it never ran
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
	nameByAttempt(record, annotations)
}

// nameByAttempt completes a record that has no ID of kubelet's by the one of its
// attempt. The annotations are the runtime's, which may be of the first.
func nameByAttempt(record *logmap.Container, annotations map[string]string) {
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
