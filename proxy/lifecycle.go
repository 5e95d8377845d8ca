package proxy

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"

	"github.com/golang/glog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-logproxy/cri-logproxy/converter"
	"github.com/cri-logproxy/cri-logproxy/proxy/logmap"
)

// call is one call that is ours, on its way to the runtime.
type call struct {
	ctx     context.Context
	conn    *grpc.ClientConn
	method  string // full, as the client named it
	request []byte
	faults  *faults
}

// forward sends request to the runtime and returns its answer, header and
// trailer included.
func (c *call) forward(request []byte) ([]byte, error) {
	var answer message
	err := invoke(c.ctx, c.conn, c.method, &message{request}, &answer)
	return answer.bytes, err
}

// read parses the request into m. A request that is not CRI is for the runtime
// to refuse: the caller forwards it.
func (c *call) read(m proto.Message) bool {
	if err := proto.Unmarshal(c.request, m); err != nil {
		if c.faults.due(c.method) {
			glog.Errorf("%s: the request cannot be parsed, forwarding it: %v", c.method, err)
		}
		return false
	}
	return true
}

// drain waits, within a bound, until the container's raw log is in its log. The
// call goes on in any case.
func (s *Server) drain(ctx context.Context, id string) {
	s.drainAll(ctx, []string{id})
}

// drainAll does so for several containers at once.
func (s *Server) drainAll(ctx context.Context, ids []string) {
	bounded, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	var wg sync.WaitGroup
	for _, id := range ids {
		wg.Go(func() {
			err := s.converters.Drain(bounded, id)
			if err != nil && ctx.Err() == nil && !errors.Is(err, converter.ErrReported) {
				glog.Errorf("container %s: %v", id, err)
			}
		})
	}
	wg.Wait()
}

// idsOf are the IDs of containers.
func idsOf(list []logmap.Container) (ids []string) {
	for _, c := range list {
		ids = append(ids, c.ID)
	}
	return ids
}

// recorded reports a failed record: the call goes on.
func (s *Server) recorded(err error) {
	if err != nil {
		glog.Errorf("%v; the state directory must be writable, or a restart will have to ask the runtime", err)
	}
}

func (s *Server) runPodSandbox(c *call) ([]byte, error) {
	answer, err := c.forward(c.request)
	var req runtimeapi.RunPodSandboxRequest
	var resp runtimeapi.RunPodSandboxResponse
	if err != nil || !c.read(&req) || proto.Unmarshal(answer, &resp) != nil || resp.PodSandboxId == "" {
		return answer, err
	}
	if !s.cfg.ours(req.GetConfig().GetAnnotations()) {
		return answer, nil
	}
	meta := req.GetConfig().GetMetadata()
	s.recorded(s.logs.PutSandbox(logmap.Sandbox{
		ID:        resp.PodSandboxId,
		Namespace: meta.GetNamespace(), Name: meta.GetName(), UID: meta.GetUid(),
		LogDirectory: req.GetConfig().GetLogDirectory(),
	}))
	return answer, nil
}

func (s *Server) createContainer(c *call) ([]byte, error) {
	var req runtimeapi.CreateContainerRequest
	if !c.read(&req) {
		return c.forward(c.request)
	}
	if _, onRecord := s.logs.Sandbox(req.PodSandboxId); !onRecord && !s.cfg.ours(req.GetSandboxConfig().GetAnnotations()) {
		return s.createOther(c)
	}
	// The runtime may give this attempt the ID of the one before, and its raw
	// log: what that holds belongs to the attempt before.
	s.drainAll(c.ctx, idsOf(s.logs.InSandbox(req.PodSandboxId)))
	record := s.plan(&req)
	request := c.request
	if record.Mode != logmap.ModePTY {
		rewritten, err := proto.Marshal(s.rewritten(&req, record))
		if err != nil {
			return nil, status.Errorf(codes.Internal, "cri-logproxy: %v", err)
		}
		request = rewritten
	}
	answer, err := c.forward(request)
	var resp runtimeapi.CreateContainerResponse
	if err != nil || proto.Unmarshal(answer, &resp) != nil || resp.ContainerId == "" {
		return answer, err
	}
	record.ID = resp.ContainerId
	if old, ok := s.logs.Container(record.ID); ok && record.Mode != logmap.ModePTY && len(old.RawLogs) > 0 {
		record.RawLogs = rawLogs(record.SandboxID, record.Name, record.Attempt, s.rawLogsBefore(c.ctx, old)...)
		record.RawAppends = old.RawAppends // unless libvirt says what became of it
		s.discardRaw(c.ctx, old)
	}
	s.recorded(s.logs.PutContainer(record))
	if record.Problem != "" {
		glog.Errorf("container %s (%s/%s %s) gets no log: %s", record.ID, record.Namespace, record.Pod, record.Name, record.Problem)
	} else {
		glog.V(1).Infof("container %s (%s/%s %s, attempt %d): %s", record.ID, record.Namespace, record.Pod, record.Name, record.Attempt, mapping(record, s.rawRoot()))
	}
	return answer, nil
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

func (s *Server) startContainer(c *call) ([]byte, error) {
	var req runtimeapi.StartContainerRequest
	if !c.read(&req) {
		return c.forward(c.request)
	}
	record, ours := s.container(c, req.ContainerId)
	if !ours {
		return c.forward(c.request)
	}
	record = s.begin(c.ctx, record)
	answer, err := c.forward(c.request)
	switch {
	case err == nil:
		s.checkConsole(c.ctx, record)
	case c.ctx.Err() == nil && blamesLog(record, err) && s.unlog(c.ctx, record, err):
		return c.forward(c.request)
	}
	return answer, err
}

// begin sets up the console of a VM that is about to start, or runs already,
// and starts the conversion. It returns what is on record then.
func (s *Server) begin(ctx context.Context, record logmap.Container) logmap.Container {
	s.fitConsole(ctx, &record)
	record.Started = true
	s.recorded(s.logs.UpdateContainer(record))
	s.convert(ctx, record)
	return record
}

// convert makes the container log and starts its converter. kubelet links to the
// log in /var/log/containers only if it is there when StartContainer returns.
func (s *Server) convert(ctx context.Context, record logmap.Container) {
	if record.ContainerLog == "" {
		return // its Problem was reported
	}
	run, err := s.run(record)
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, drainTimeout)
		defer cancel()
		err = s.converters.Begin(ctx, run)
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		glog.Errorf("container %s (%s/%s %s) starts without a log: %v", record.ID, record.Namespace, record.Pod, record.Name, err)
	}
}

func (s *Server) stopContainer(c *call) ([]byte, error) {
	answer, err := c.forward(c.request)
	var req runtimeapi.StopContainerRequest
	if c.read(&req) {
		s.drain(c.ctx, req.ContainerId)
	}
	return answer, err
}

func (s *Server) removeContainer(c *call) ([]byte, error) {
	var req runtimeapi.RemoveContainerRequest
	if !c.read(&req) {
		return c.forward(c.request)
	}
	s.drain(c.ctx, req.ContainerId)
	answer, err := c.forward(c.request)
	if gone(err) {
		s.others.remove(req.ContainerId)
		s.forget(c.ctx, req.ContainerId)
	}
	return answer, err
}

// gone says that after a removal there is nothing left.
func gone(err error) bool {
	return err == nil || status.Code(err) == codes.NotFound
}

// forget ends the conversion and drops the record. kubelet has deleted the log
// already; nothing makes it again.
func (s *Server) forget(ctx context.Context, id string) {
	record, ok := s.logs.Container(id)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	s.recorded(s.converters.Forget(ctx, id))
	s.recorded(s.logs.RemoveContainer(id))
	s.removeRaw(ctx, record)
	glog.V(1).Infof("container %s: forgotten", id)
}

func (s *Server) removePodSandbox(c *call) ([]byte, error) {
	var req runtimeapi.RemovePodSandboxRequest
	if !c.read(&req) {
		return c.forward(c.request)
	}
	containers := s.logs.InSandbox(req.PodSandboxId)
	s.drainAll(c.ctx, idsOf(containers)) // the runtime deletes the raw directory
	answer, err := c.forward(c.request)
	if !gone(err) {
		return answer, err
	}
	for _, record := range containers {
		s.forget(c.ctx, record.ID)
	}
	if _, ok := s.logs.Sandbox(req.PodSandboxId); ok {
		s.recorded(s.logs.RemoveSandbox(req.PodSandboxId))
		s.collectRaw(c.ctx, req.PodSandboxId)
	}
	return answer, err
}

func (s *Server) reopenContainerLog(c *call) ([]byte, error) {
	var req runtimeapi.ReopenContainerLogRequest
	if !c.read(&req) {
		return c.forward(c.request)
	}
	record, ok := s.container(c, req.ContainerId)
	if !ok {
		return c.forward(c.request)
	}
	if !record.Started && s.isRunning(c.ctx, record.ID) {
		// It was started past this proxy, or the record of its start was lost.
		s.begin(c.ctx, record)
		return nil, nil
	}
	if err := s.reopen(c.ctx, record); err != nil {
		glog.Errorf("container %s: %v", record.ID, err)
		return nil, status.Errorf(codes.FailedPrecondition, "cri-logproxy: %v", err)
	}
	return nil, nil // an empty ReopenContainerLogResponse
}

func (s *Server) reopen(ctx context.Context, record logmap.Container) error {
	switch {
	case record.ContainerLog == "":
		return fmt.Errorf("the container has no log: %s", record.Problem)
	case !record.Started:
		return errors.New("the container is not running: it was not started")
	}
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	err := s.converters.Reopen(ctx, record.ID)
	if errors.Is(err, converter.ErrNotConverting) {
		run, runErr := s.run(record)
		if runErr != nil {
			return runErr
		}
		return s.converters.Begin(ctx, run)
	}
	return err
}
