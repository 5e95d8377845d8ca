package proxy

import (
	"context"
	"slices"

	"github.com/golang/glog"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-logproxy/cri-logproxy/proxy/logmap"
	"github.com/cri-logproxy/cri-logproxy/proxy/personality"
)

// stopping notes that a container is being stopped.
func (s *Server) stopping(id string) {
	if s.has(personality.StoppedDisk) {
		s.recorded(s.logs.ChangeContainer(id, func(c *logmap.Container) { c.Stopped = true }))
	}
}

// removeStopped removes those containers of a sandbox from the runtime that were
// stopped since their last start, before the next attempt is created: it would
// have no disk. One whose VM has powered off by itself keeps its disk.
func (s *Server) removeStopped(ctx context.Context, before []logmap.Container) {
	if !s.has(personality.StoppedDisk) {
		return
	}
	for _, old := range before {
		if old.Stopped {
			glog.V(1).Infof("container %s was stopped: removing it before its next attempt is created", old.ID)
			s.removeFromRuntime(ctx, old.ID)
		}
	}
}

// removeLost removes the container of a sandbox whose domain libvirt has lost.
// It reports whether CreateContainer is worth another try.
func (s *Server) removeLost(ctx context.Context, sandboxID string, before []logmap.Container) bool {
	ids := idsOf(before)
	if len(ids) == 0 { // no record is left of it
		ids = s.idsAtRuntime(ctx, sandboxID)
	}
	removed := false
	for _, id := range ids {
		glog.Errorf("container %s has lost its libvirt domain: removing it, to create it anew", id)
		removed = s.removeFromRuntime(ctx, id) || removed
	}
	return removed
}

// idsAtRuntime are the IDs of the containers of a sandbox by what the runtime
// lists; none if it does not answer.
func (s *Server) idsAtRuntime(ctx context.Context, sandboxID string) (ids []string) {
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	var resp runtimeapi.ListContainersResponse
	req := &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{PodSandboxId: sandboxID}}
	if err := s.ask(ctx, "ListContainers", req, &resp); err != nil {
		return nil
	}
	for _, c := range resp.Containers {
		if c.PodSandboxId == sandboxID {
			ids = append(ids, c.Id)
		}
	}
	return ids
}

// lost says that the runtime does not have a container any more.
func (s *Server) lost(ctx context.Context, id string) bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	var resp runtimeapi.ListContainersResponse
	err := s.ask(ctx, "ListContainers", &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{Id: id}}, &resp)
	return err == nil && !slices.ContainsFunc(resp.Containers, func(c *runtimeapi.Container) bool { return c.Id == id })
}

// removeFromRuntime removes a container that kubelet takes for another attempt.
func (s *Server) removeFromRuntime(ctx context.Context, id string) bool {
	err := s.ask(ctx, "RemoveContainer", &runtimeapi.RemoveContainerRequest{ContainerId: id}, &runtimeapi.RemoveContainerResponse{})
	if !gone(s.code("RemoveContainer", err)) {
		glog.Errorf("remove container %s from the runtime: %v", id, err)
		return false
	}
	s.recorded(s.logs.ChangeContainer(id, func(c *logmap.Container) { c.Stopped, c.Removed = false, true }))
	return true
}

// code gives an error of the runtime's its code, where it has none.
func (s *Server) code(method string, err error) error {
	if status.Code(err) == codes.Unknown && s.has(personality.ErrorCodes) {
		return personality.Code(method, err)
	}
	return err
}
