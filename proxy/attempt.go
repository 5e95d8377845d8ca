package proxy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
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
	if !s.has(personality.Attempts) {
		return who{id: id} // kubelet is given the runtime's own
	}
	if a := s.ended(id); a != nil {
		return who{ended: a}
	}
	if record, ok := s.logs.ByKubeletID(id); ok {
		return who{id: record.ID}
	}
	if _, ok := s.logs.Container(id); ok {
		return who{gone: true} // it is another attempt's now
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

// looks are the calls that tell of attempts and change nothing.
var looks = map[string]bool{"ContainerStatus": true, "ListContainers": true, "ListContainerStats": true, "PodSandboxStatus": true}

// lookFor is how long a look is taken again. Where attempts begin all the time,
// and the runtime is slow, it must end, too.
const lookFor = time.Second

// serve answers a call that is ours, or mended. What was asked for while an
// attempt began is asked for again: it may be of the attempt before.
func (s *Server) serve(c *call, handle func(*Server, *call) ([]byte, error)) (answer []byte, err error) {
	s.runtime.awaitConnection(c.ctx) // or it is not known which repairs it needs
	request := c.request
	begun := time.Now()
	for n := 1; ; n++ {
		step := s.logs.Steps()
		c.request = request
		answer, err = s.serveOnce(c, handle)
		if !looks[c.name] || s.logs.Steps() == step || !s.has(personality.Attempts) || n > 1 && time.Since(begun) > lookFor {
			return answer, err
		}
	}
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
func (s *Server) countAttempts(ctx context.Context, record *logmap.Container, annotations map[string]string) {
	if !s.has(personality.Attempts) || record.ContainerLog == "" {
		return
	}
	dir := filepath.Dir(record.ContainerLog)
	last, err := s.lastAttempt(ctx, dir)
	if err != nil { // another number would stay on record
		record.ContainerLog, record.Problem = "", err.Error()
		return
	}
	if last > record.Attempt {
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
// directory. It waits drainTimeout at most, and not longer than ctx: a disk may
// hang. While a look hangs no other is taken.
func (s *Server) lastAttempt(ctx context.Context, dir string) (last uint32, err error) {
	err = fmt.Errorf("the disk of %s hangs", dir)
	if s.hanging.Load() == 0 {
		done := make(chan struct{})
		var names []string
		var readErr error
		go func() {
			defer close(done)
			names, readErr = readNames(dir)
		}()
		if inTime(ctx, done) == nil {
			last, err = personality.LastAttempt(names), readErr
		} else {
			s.hanging.Add(1)
			go func() {
				<-done
				s.hanging.Add(-1)
			}()
		}
	}
	if err != nil && s.faults.due("log directory") {
		glog.Errorf("a container that is not on record gets no log until its attempts can be counted by their logs: %v", err)
	}
	return last, err
}

// readNames are the names in a directory; none if it is not there.
func readNames(dir string) ([]string, error) {
	f, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Readdirnames(-1)
}
