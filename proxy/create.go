package proxy

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/golang/glog"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-logproxy/cri-logproxy/proxy/logmap"
	"github.com/cri-logproxy/cri-logproxy/proxy/personality"
)

func (s *Server) createContainer(c *call) ([]byte, error) {
	var req runtimeapi.CreateContainerRequest
	if !c.read(&req) {
		return c.forward(c.request)
	}
	ours := s.ours(req.GetSandboxConfig().GetAnnotations())
	if _, onRecord := s.logs.Sandbox(req.PodSandboxId); !ours && (req.SandboxConfig != nil || !onRecord) {
		return s.createOther(c)
	}
	// The runtime may give this attempt the ID of the one before, and its raw
	// log: what that holds belongs to the attempt before.
	before := s.before(c.ctx, &req)
	s.drainAll(c.ctx, idsOf(before))
	record := s.plan(&req)
	request := c.request
	if record.Mode != logmap.ModePTY {
		rewritten, err := proto.Marshal(s.rewritten(&req, record))
		if err != nil {
			return nil, status.Errorf(codes.Internal, "cri-logproxy: %v", err)
		}
		request = rewritten
	}
	before = slices.DeleteFunc(before, func(old logmap.Container) bool { return old.Name != record.Name })
	defer s.endAttempts(c.ctx, before, record.Attempt)()
	s.removeStopped(c.ctx, before)
	answer, err := c.forward(request)
	if s.has(personality.LostDomain) && personality.IsLostDomain(err) && s.removeLost(c.ctx, req.PodSandboxId, before) {
		answer, err = c.forward(request)
	}
	var resp runtimeapi.CreateContainerResponse
	if err != nil || proto.Unmarshal(answer, &resp) != nil || resp.ContainerId == "" {
		return answer, err
	}
	record.ID = resp.ContainerId
	s.created(c, record)
	return s.nameAttempt(answer, &resp), nil
}

// before are the containers on record of the sandbox that a container is made in.
// If there are none of an attempt before this one, its record was lost, or its
// CreateContainer was not answered: the runtime is asked.
func (s *Server) before(ctx context.Context, req *runtimeapi.CreateContainerRequest) []logmap.Container {
	before := s.logs.InSandbox(req.PodSandboxId)
	if len(before) > 0 || req.GetConfig().GetMetadata().GetAttempt() == 0 {
		return before
	}
	for _, id := range s.idsAtRuntime(ctx, req.PodSandboxId) {
		s.container(ctx, id)
	}
	return s.logs.InSandbox(req.PodSandboxId)
}

// created puts a container on record that the runtime has made.
func (s *Server) created(c *call, record logmap.Container) {
	old, again := s.logs.Container(record.ID)
	record.Stopped = old.Stopped // it could not be removed
	if again && record.Mode != logmap.ModePTY && len(old.RawLogs) > 0 {
		if !old.Removed { // else it is a new one, with a raw log of its own
			if record.FirstRawLogs = old.FirstRawLogs; record.FirstRawLogs == nil {
				record.FirstRawLogs = old.RawLogs
			}
			before := append(s.rawLogsBefore(c.ctx, old), record.FirstRawLogs...) // those need not be there yet
			record.RawLogs = rawLogs(record.SandboxID, record.Name, record.Attempt, before...)
			record.RawAppends = old.RawAppends // unless libvirt says what became of it
		}
		s.discardRaw(c.ctx, old)
	}
	if s.has(personality.Attempts) {
		record.CreatedAt = time.Now().UnixNano()
		record.KubeletID = personality.AttemptID(record.ID, record.Attempt)
		if again {
			s.recordEnded(old)
		}
	}
	s.removed.remove(record.ID)
	s.recorded(s.logs.PutContainer(record))
	if record.Problem != "" {
		glog.Errorf("container %s (%s/%s %s) gets no log: %s", record.ID, record.Namespace, record.Pod, record.Name, record.Problem)
	} else {
		glog.V(1).Infof("container %s (%s/%s %s, attempt %d): %s", record.ID, record.Namespace, record.Pod, record.Name, record.Attempt, mapping(record, s.rawRoot()))
	}
}

// createOther forwards the CreateContainer of a container that is not ours.
func (s *Server) createOther(c *call) ([]byte, error) {
	answer, err := c.forward(c.request)
	var resp runtimeapi.CreateContainerResponse
	if err == nil && proto.Unmarshal(answer, &resp) == nil {
		s.others.add(resp.ContainerId)
	}
	return answer, err
}

// plan is the record of a container that is about to be made; its ID is not
// known yet.
func (s *Server) plan(req *runtimeapi.CreateContainerRequest) logmap.Container {
	pod, meta := req.GetSandboxConfig().GetMetadata(), req.GetConfig().GetMetadata()
	record := logmap.Container{
		SandboxID: req.PodSandboxId,
		Namespace: pod.GetNamespace(), Pod: pod.GetName(), Name: meta.GetName(), Attempt: meta.GetAttempt(),
	}
	if s.has(personality.Attempts) {
		record.Annotations = req.GetConfig().GetAnnotations()
	}
	record.Mode, record.ModeProblem = s.cfg.mode(req.GetSandboxConfig().GetAnnotations())
	record.ModeAsked = record.Mode != s.cfg.LogMode
	if record.ModeProblem != "" {
		glog.Errorf("pod %s/%s: %s", record.Namespace, record.Pod, record.ModeProblem)
	}
	logDirectory := req.GetSandboxConfig().GetLogDirectory()
	if sandbox, ok := s.logs.Sandbox(req.PodSandboxId); ok && req.SandboxConfig == nil {
		record.Namespace, record.Pod, logDirectory = sandbox.Namespace, sandbox.Name, sandbox.LogDirectory
	}
	var err error
	record.ContainerLog, err = containerLogPath(s.cfg.PodLogsDir, logDirectory, req.GetConfig().GetLogPath())
	switch {
	case err != nil:
		record.Problem = err.Error()
	case record.ContainerLog == "":
		record.Problem = "the client gave no log_directory or log_path"
	}
	if record.Mode != logmap.ModePTY {
		if isComponent(req.PodSandboxId) {
			record.RawLogs = rawLogs(req.PodSandboxId, record.Name, record.Attempt)
		} else {
			record.ContainerLog, record.Problem = "", fmt.Sprintf("sandbox ID %q cannot be the name of a directory", req.PodSandboxId)
		}
	}
	return record
}

// rewritten is the request with the raw log in place of kubelet's log.
func (s *Server) rewritten(req *runtimeapi.CreateContainerRequest, record logmap.Container) *runtimeapi.CreateContainerRequest {
	if len(record.RawLogs) == 0 || req.Config == nil {
		return req
	}
	raw := filepath.Join(s.cfg.VMLogLocation, record.RawLogs[0])
	if req.SandboxConfig != nil {
		req.SandboxConfig.LogDirectory = filepath.Dir(raw)
	}
	req.Config.LogPath = filepath.Base(raw)
	return req
}
