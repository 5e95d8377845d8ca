package proxy

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/golang/glog"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-logproxy/cri-logproxy/converter"
	"github.com/cri-logproxy/cri-logproxy/proxy/logmap"
	"github.com/cri-logproxy/cri-logproxy/proxy/personality"
)

// call is one call that is ours, on its way to the runtime.
type call struct {
	ctx     context.Context
	server  *Server
	method  string // full, as the client named it
	name    string // the method's without its service
	request []byte
}

// forward sends request to the runtime and returns its answer, header and
// trailer included.
func (c *call) forward(request []byte) ([]byte, error) {
	var answer message
	err := c.server.invoke(c.ctx, c.method, &message{request}, &answer)
	return answer.bytes, c.server.code(c.name, err)
}

// read parses the request into m. A request that is not CRI is for the runtime
// to refuse: the caller forwards it.
func (c *call) read(m proto.Message) bool {
	if err := proto.Unmarshal(c.request, m); err != nil {
		if c.server.faults.due(c.method) {
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
	if !s.ours(req.GetConfig().GetAnnotations()) {
		return answer, nil
	}
	meta := req.GetConfig().GetMetadata()
	s.removed.remove(resp.PodSandboxId)
	s.recorded(s.logs.PutSandbox(logmap.Sandbox{
		ID:        resp.PodSandboxId,
		Namespace: meta.GetNamespace(), Name: meta.GetName(), UID: meta.GetUid(),
		LogDirectory: req.GetConfig().GetLogDirectory(), Namespaces: askedNamespaces(&req),
	}))
	return answer, nil
}

func (s *Server) startContainer(c *call) ([]byte, error) {
	var req runtimeapi.StartContainerRequest
	if !c.read(&req) {
		return c.forward(c.request)
	}
	record, ours := s.container(c.ctx, req.ContainerId)
	if !ours {
		return c.forward(c.request)
	}
	s.starting.add(record.ID)
	defer s.starting.remove(record.ID)
	record.Starting = true
	record = s.begin(c.ctx, record)
	answer, err := c.forward(c.request)
	switch {
	case err == nil:
		s.checkConsole(c.ctx, record)
	case c.ctx.Err() == nil && blamesLog(record, err) && s.unlog(c.ctx, record, err):
		answer, err = c.forward(c.request)
	}
	s.started(c.ctx, record, err)
	return answer, err
}

// started notes how StartContainer ended.
func (s *Server) started(ctx context.Context, record logmap.Container, err error) {
	stopped := record.Stopped && err != nil || s.has(personality.StoppedDisk) && personality.IsDiskGone(err)
	known := err == nil || hasFailed(ctx, err)
	s.recorded(s.logs.ChangeContainer(record.ID, func(c *logmap.Container) {
		if c.Attempt != record.Attempt {
			return
		}
		if stopped != record.Stopped {
			c.Stopped = stopped
		}
		c.Starting = c.Starting && !known
		if err != nil && known && s.has(personality.FinishedAt) {
			c.StartError, c.FinishedAt = err.Error(), time.Now().UnixNano()
		}
	}))
	if known {
		s.alive.add(record.ID)
	}
}

// hasFailed says that an error of StartContainer's is the runtime's answer. Else
// the VM may start all the same, or the runtime may not have heard of it.
func hasFailed(ctx context.Context, err error) bool {
	switch status.Code(err) {
	case codes.Unavailable, codes.Canceled, codes.DeadlineExceeded:
		return false
	}
	return ctx.Err() == nil
}

// begin sets up the console of a VM that is about to start, or runs already,
// and starts the conversion. It returns what is on record then.
func (s *Server) begin(ctx context.Context, record logmap.Container) logmap.Container {
	s.fitConsole(ctx, &record)
	record.Started, record.FinishedAt, record.StartError = true, 0, ""
	s.recorded(s.logs.ChangeContainer(record.ID, func(c *logmap.Container) {
		if c.Attempt == record.Attempt { // libvirt may have taken its time
			record.Stopped = c.Stopped
			*c = record
		}
	}))
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
	var req runtimeapi.StopContainerRequest
	if !c.read(&req) {
		return c.forward(c.request)
	}
	s.stopping(req.ContainerId)
	answer, err := c.forward(c.request)
	s.drain(c.ctx, req.ContainerId)
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
		s.removed.add(req.ContainerId)
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
	s.alive.remove(id)
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
	s.removed.add(req.PodSandboxId)
	for _, record := range containers {
		s.forget(c.ctx, record.ID)
	}
	if _, ok := s.logs.Sandbox(req.PodSandboxId); ok {
		s.forgetSandbox(c.ctx, req.PodSandboxId)
	} else {
		s.forgetAttempts(req.PodSandboxId)
	}
	return answer, err
}

// forgetSandbox drops what is on record of a sandbox that is gone, and what the
// runtime has left of its raw logs.
func (s *Server) forgetSandbox(ctx context.Context, id string) {
	s.forgetAttempts(id)
	s.recorded(s.logs.RemoveSandbox(id))
	s.collectRaw(ctx, id)
}

// forgetAttempts drops those attempts of a sandbox that are over.
func (s *Server) forgetAttempts(sandboxID string) {
	for _, a := range s.logs.Attempts() {
		if a.SandboxID == sandboxID {
			s.recorded(s.logs.RemoveAttempt(a.ID))
		}
	}
}

func (s *Server) reopenContainerLog(c *call) ([]byte, error) {
	var req runtimeapi.ReopenContainerLogRequest
	if !c.read(&req) {
		return c.forward(c.request)
	}
	record, ok := s.container(c.ctx, req.ContainerId)
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
