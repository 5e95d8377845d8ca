package proxy

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/golang/glog"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-logproxy/cri-logproxy/proxy/api"
	"github.com/cri-logproxy/cri-logproxy/proxy/logmap"
	"github.com/cri-logproxy/cri-logproxy/proxy/personality"
)

const (
	// reconcileTimeout bounds the questions that a reconciliation asks.
	reconcileTimeout = 30 * time.Second
	// reconcileAgain is the time to the next one, where one is needed.
	reconcileAgain = 15 * time.Second
	// resumeTimeout bounds how long the first call waits for conversions to go
	// on. A disk may hang.
	resumeTimeout = 2 * time.Second
)

// resume goes on with every conversion on record. What takes longer than
// resumeTimeout goes on in the background.
func (s *Server) resume(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, resumeTimeout)
	defer cancel()
	var wg sync.WaitGroup
	for _, record := range s.logs.Containers() {
		if !record.Started || record.ContainerLog == "" {
			continue
		}
		wg.Go(func() { s.goOn(ctx, record) })
	}
	wg.Wait()
}

// goOn goes on with a conversion that an earlier process has begun.
func (s *Server) goOn(ctx context.Context, record logmap.Container) {
	run, err := s.run(record)
	if err == nil {
		err = s.converters.Resume(ctx, run)
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		glog.Errorf("container %s (%s/%s %s): its log does not go on: %v", record.ID, record.Namespace, record.Pod, record.Name, err)
	}
}

// ask calls the runtime in our own name. Like all that the proxy looks at, the
// messages are in the terms of v1.
func (s *Server) ask(ctx context.Context, method string, req, resp proto.Message) error {
	request, err := proto.Marshal(req)
	if err != nil {
		return err
	}
	var answer message
	path := api.Method{Version: api.V1, Service: api.RuntimeService, Name: method}.Path()
	if err := s.runtime.Invoke(ctx, path, &message{request}, &answer); err != nil {
		return err
	}
	return proto.Unmarshal(answer.bytes, resp)
}

// reconcile makes the log map agree with the runtime, each time that it is
// there again: what it lists and the map lacks is put on record, what it does not
// list any more is forgotten. It returns when it should be called again, 0 for not.
func (s *Server) reconcile(ctx context.Context) (again time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, reconcileTimeout)
	defer cancel()
	defer s.removed.watch()()
	before := idsOf(s.logs.Containers())
	sandboxesBefore := s.logs.Sandboxes()
	othersBefore := s.others.all()
	var containers runtimeapi.ListContainersResponse
	var sandboxes runtimeapi.ListPodSandboxResponse
	err := s.ask(ctx, "ListPodSandbox", &runtimeapi.ListPodSandboxRequest{}, &sandboxes)
	if err == nil {
		err = s.ask(ctx, "ListContainers", &runtimeapi.ListContainersRequest{}, &containers)
	}
	if errors.Is(ctx.Err(), context.Canceled) || status.Code(err) == codes.Unavailable {
		return s.lookAgain // or as soon as the connection is another one
	}
	if err != nil {
		glog.Errorf("cannot compare the log map with what the runtime lists, trying again in %v: %v", s.lookAgain, err)
		return s.lookAgain
	}
	pods := make(map[string]*runtimeapi.PodSandbox)
	for _, p := range sandboxes.Items {
		pods[p.Id] = p
	}
	s.dropAttempts(sandboxes.Items)
	s.dropOthers(ctx, sandboxes.Items)
	listed, ours := make(map[string]bool), make(map[string]bool)
	for _, c := range containers.Containers {
		if ctx.Err() != nil { // a disk hangs
			return s.lookAgain
		}
		pod := pods[c.PodSandboxId]
		s.reconcileContainer(ctx, c, pod)
		listed[c.Id] = true
		if _, ok := s.logs.Container(c.Id); ok {
			ours[c.Id] = true
		} else if pod == nil && !s.ours(nil) {
			again = s.lookAgain // whose it is cannot be told yet
		}
	}
	for _, id := range othersBefore {
		if !listed[id] {
			s.others.remove(id)
		}
	}
	ourPods := make(map[string]bool)
	for _, p := range sandboxes.Items {
		if ctx.Err() != nil {
			return s.lookAgain
		}
		s.reconcileSandbox(p)
		if _, ok := s.logs.Sandbox(p.Id); ok {
			ourPods[p.Id] = true
		}
	}
	more := s.forgetContainers(ctx, before, ours)
	if s.forgetSandboxes(ctx, sandboxesBefore, ourPods) || more {
		again = s.lookAgain
	}
	return again
}

// reconcileContainer makes the record of a container agree with what the
// runtime lists.
func (s *Server) reconcileContainer(ctx context.Context, c *runtimeapi.Container, pod *runtimeapi.PodSandbox) {
	record, ok := s.logs.Container(c.Id)
	switch {
	case !ok:
		s.rebuild(ctx, c, pod)
	case !record.Started && c.State == runtimeapi.ContainerState_CONTAINER_RUNNING:
		// It was started past this proxy, or the record of its start was lost.
		s.begin(ctx, record)
	}
	if ok && record.KubeletID == "" && s.has(personality.Attempts) {
		// It is of a time without this repair.
		s.recorded(s.logs.ChangeContainer(record.ID, func(now *logmap.Container) {
			if now.KubeletID == "" {
				nameByAttempt(now, c.Annotations)
			}
		}))
	}
}

// isRunning asks the runtime whether a container is running.
func (s *Server) isRunning(ctx context.Context, id string) bool {
	c := s.list(ctx, id)
	return c != nil && c.State == runtimeapi.ContainerState_CONTAINER_RUNNING
}

// reconcileSandbox puts a sandbox on record that the runtime lists.
func (s *Server) reconcileSandbox(p *runtimeapi.PodSandbox) {
	if !s.ours(p.Annotations) {
		return
	}
	meta := p.GetMetadata()
	s.recorded(s.logs.AddSandbox(logmap.Sandbox{
		ID: p.Id, Namespace: meta.GetNamespace(), Name: meta.GetName(), UID: meta.GetUid(),
		LogDirectory: podLogDirectory(s.cfg.PodLogsDir, meta.GetNamespace(), meta.GetName(), meta.GetUid()),
	}, func() bool { return s.removed.has(p.Id) }))
}

// rebuild puts a container on record that was made before the record began, and
// goes on with its conversion. pod is nil if the runtime does not list it. The
// caller watches for removals.
func (s *Server) rebuild(ctx context.Context, c *runtimeapi.Container, pod *runtimeapi.PodSandbox) (logmap.Container, bool) {
	if !s.ours(pod.GetAnnotations()) {
		if pod != nil { // else it may be ours: CRIProxy leaves a runtime out that fails
			s.others.add(c.Id)
		}
		return logmap.Container{}, false
	}
	record := s.labelled(ctx, c.Id, c.PodSandboxId, c.Labels, c.Annotations, c.GetMetadata().GetAttempt())
	if record.ContainerLog == "" || !isComponent(c.PodSandboxId) {
		glog.V(1).Infof("container %s is not on record, and %s: it gets no log", c.Id, record.Problem)
		return record, false
	}
	record.Mode, record.ModeProblem = s.cfg.mode(pod.GetAnnotations())
	record.Started = c.State != runtimeapi.ContainerState_CONTAINER_CREATED
	if record.Mode != logmap.ModePTY {
		// The runtime counts its first attempt only, and goes on in that raw log.
		first := labelled(s.cfg.PodLogsDir, c.Id, c.PodSandboxId, c.Labels, c.Annotations, c.GetMetadata().GetAttempt())
		record.RawLogs = rawLogs(record.SandboxID, record.Name, record.Attempt, rawLogs(first.SandboxID, first.Name, first.Attempt)...)
	}
	if record.Started {
		s.observe(ctx, &record)
	}
	added, err := s.logs.AddContainer(record, func() bool { return s.removed.has(c.Id) || s.removed.has(c.PodSandboxId) })
	s.recorded(err)
	if !added { // it was removed, or CreateContainer has answered meanwhile and knows better
		return s.logs.Container(c.Id)
	}
	glog.Infof("container %s (%s/%s %s) was not on record; by its labels, %s", c.Id, record.Namespace, record.Pod, record.Name, mapping(record, s.rawRoot()))
	if record.Started {
		s.goOn(ctx, record)
	}
	if _, ok := s.logs.Container(c.Id); !ok { // it was removed meanwhile
		s.recorded(s.converters.Forget(ctx, c.Id))
	}
	return record, true
}

// container returns the record of a container. One that is not on record is
// asked for at the runtime; ok is false if it is not ours.
func (s *Server) container(ctx context.Context, id string) (record logmap.Container, ok bool) {
	if record, ok := s.logs.Container(id); ok {
		return record, true
	}
	if s.others.has(id) {
		return logmap.Container{}, false
	}
	defer s.removed.watch()()
	found := s.list(ctx, id)
	if found == nil {
		return logmap.Container{}, false
	}
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	pod, err := s.listSandbox(ctx, found.PodSandboxId)
	if err != nil {
		return logmap.Container{}, false
	}
	return s.rebuild(ctx, found, pod)
}

// list asks the runtime for one container. nil if it does not have it, or does
// not answer: the call that is under way will say why.
func (s *Server) list(ctx context.Context, id string) *runtimeapi.Container {
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	var resp runtimeapi.ListContainersResponse
	if err := s.ask(ctx, "ListContainers", &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{Id: id}}, &resp); err != nil {
		return nil
	}
	for _, c := range resp.Containers {
		if c.Id == id {
			return c
		}
	}
	return nil
}
