package proxy

import (
	"context"
	"slices"
	"time"

	"github.com/golang/glog"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-logproxy/cri-logproxy/proxy/logmap"
	"github.com/cri-logproxy/cri-logproxy/proxy/personality"
)

// has says whether a repair is in force: for the runtime that is there now, or for
// the last that has told its name until it does.
func (s *Server) has(r *personality.Repair) bool { return s.repairs.Load().Has(r) }

// choose chooses the repairs for a runtime, and what is ours there.
func (s *Server) choose(p Peer) personality.Set {
	set := s.cfg.Personality.For(personality.Runtime{Name: p.Name, APIs: p.APIs})
	s.repairs.Store(&set)
	s.onlyAnnotated.Store(s.cfg.onlyAnnotated(p))
	return set
}

// repairStatus makes a status of the runtime's what kubelet must see of the
// container, its ID included. It reports whether it changed anything.
func (s *Server) repairStatus(ctx context.Context, st *runtimeapi.ContainerStatus) (changed bool) {
	record, ok := s.logs.Container(st.GetId())
	if !ok {
		return s.repairUnknown(ctx, st)
	}
	if !s.has(personality.Attempts) {
		record.KubeletID = "" // see who
	}
	if a, ok := s.ending.Load(record.KnownAs()); ok && proto.Unmarshal(a.(*logmap.Attempt).Status, st) == nil {
		return true
	}
	isRunning := st.State == runtimeapi.ContainerState_CONTAINER_RUNNING
	if record.Starting && isRunning && !s.starting.has(record.ID) { // so that is how it has ended
		record.Starting = false
		s.recorded(s.logs.ChangeContainer(record.ID, func(c *logmap.Container) { c.Starting = c.Starting && c.Attempt != record.Attempt }))
	}
	// What the runtime says may still be of the attempt before.
	pending := record.KubeletID != "" && (!record.Started || record.Starting && !isRunning)
	if s.has(personality.FinishedAt) && !pending {
		s.repairEnd(ctx, &record, st)
		changed = true
	}
	if record.KubeletID == "" {
		return changed
	}
	st.Id = record.KubeletID
	if st.Metadata == nil {
		st.Metadata = &runtimeapi.ContainerMetadata{Name: record.Name}
	}
	st.Metadata.Attempt = record.Attempt
	if record.Annotations != nil {
		st.Annotations = record.Annotations
	}
	if record.CreatedAt != 0 {
		st.CreatedAt = record.CreatedAt
	}
	if pending {
		st.State = runtimeapi.ContainerState_CONTAINER_CREATED
		st.StartedAt, st.FinishedAt, st.ExitCode, st.Reason, st.Message = 0, 0, 0, "", ""
	}
	return true
}

// repairUnknown does so for a container that is not on record, or not yet:
// kubelet lists it before CreateContainer has answered.
func (s *Server) repairUnknown(ctx context.Context, st *runtimeapi.ContainerStatus) (changed bool) {
	if !s.has(personality.Attempts) || s.others.has(st.GetId()) {
		return false
	}
	if s.onlyAnnotated.Load() {
		if _, ours := s.container(ctx, st.GetId()); !ours {
			return false
		}
	}
	record := s.labelled(ctx, st.GetId(), "", st.GetLabels(), st.GetAnnotations(), st.GetMetadata().GetAttempt())
	if record.KubeletID == "" || record.KubeletID == st.Id {
		return false
	}
	st.Id, st.Annotations = record.KubeletID, record.Annotations
	if st.Metadata != nil {
		st.Metadata.Attempt = record.Attempt
	}
	return true
}

// repairEnd completes the status of a container that is over.
func (s *Server) repairEnd(ctx context.Context, record *logmap.Container, st *runtimeapi.ContainerStatus) {
	switch {
	case st.State == runtimeapi.ContainerState_CONTAINER_RUNNING:
		s.alive.add(record.ID)
		if record.FinishedAt != 0 || record.StartError != "" { // somebody has started it
			s.recorded(s.logs.ChangeContainer(record.ID, func(c *logmap.Container) { c.FinishedAt, c.StartError = 0, "" }))
		}
	case record.StartError != "":
		personality.FailStart(st, record.FinishedAt, record.StartError)
	case st.State == runtimeapi.ContainerState_CONTAINER_EXITED && record.Started:
		personality.Finish(st, s.finishedAt(ctx, record, st.StartedAt))
	}
}

// finishedAt is when a container was first seen to be over.
func (s *Server) finishedAt(ctx context.Context, record *logmap.Container, startedAt int64) int64 {
	if record.FinishedAt != 0 {
		return record.FinishedAt
	}
	at := time.Now().UnixNano()
	if !s.alive.has(record.ID) { // it ended while we were away
		if written := s.lastWritten(ctx, *record); written >= startedAt && written != 0 {
			at = written
		}
	}
	s.recorded(s.logs.ChangeContainer(record.ID, func(c *logmap.Container) {
		if c.FinishedAt == 0 && c.Attempt == record.Attempt {
			c.FinishedAt = at
		}
		record.FinishedAt = c.FinishedAt
	}))
	return record.FinishedAt
}

// listContainers answers for the attempts that are over as well, and selects
// what kubelet has asked for from what it is told, not from what the runtime
// says.
func (s *Server) listContainers(c *call) ([]byte, error) {
	var req runtimeapi.ListContainersRequest
	if !c.read(&req) {
		return c.forward(c.request)
	}
	items, err := s.listed(outgoing(c.ctx), req.GetFilter())
	if err != nil {
		return nil, err
	}
	return proto.Marshal(&runtimeapi.ListContainersResponse{Containers: items})
}

// listed are the containers that match a filter, as kubelet sees them.
func (s *Server) listed(ctx context.Context, filter *runtimeapi.ContainerFilter) ([]*runtimeapi.Container, error) {
	var resp runtimeapi.ListContainersResponse
	var w who
	if filter.GetId() != "" {
		w = s.who(ctx, filter.GetId())
	}
	if filter.GetId() == "" || w.id != "" {
		err := s.ask(ctx, "ListContainers", &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{
			Id: w.id, PodSandboxId: filter.GetPodSandboxId(), LabelSelector: filter.GetLabelSelector(),
		}}, &resp)
		if err != nil {
			return nil, err
		}
	}
	bounded, cancel := context.WithTimeout(ctx, drainTimeout) // for all of them: a disk may hang
	defer cancel()
	for _, item := range resp.Containers {
		s.repairListed(bounded, item)
	}
	for _, a := range s.allEnded() {
		var st runtimeapi.ContainerStatus
		if err := proto.Unmarshal(a.Status, &st); err != nil {
			glog.Errorf("status of attempt %s: %v", a.ID, err)
			continue
		}
		item := &runtimeapi.Container{PodSandboxId: a.SandboxID}
		fill(item, &st)
		resp.Containers = append(resp.Containers, item)
	}
	listed := make(map[string]bool)
	return slices.DeleteFunc(resp.Containers, func(item *runtimeapi.Container) bool {
		again := listed[item.Id] // it has just ended
		listed[item.Id] = true
		return again || !matches(filter, item)
	}), nil
}

// repairListed does for an item of a list what repairStatus does for a status.
func (s *Server) repairListed(ctx context.Context, item *runtimeapi.Container) {
	st := &runtimeapi.ContainerStatus{
		Id: item.Id, Metadata: item.Metadata, Image: item.Image, ImageRef: item.ImageRef, ImageId: item.ImageId,
		State: item.State, CreatedAt: item.CreatedAt, Labels: item.Labels, Annotations: item.Annotations,
	}
	if s.repairStatus(ctx, st) {
		fill(item, st)
	}
}

// fill gives an item of a list what a status says.
func fill(item *runtimeapi.Container, st *runtimeapi.ContainerStatus) {
	item.Id, item.Metadata, item.Image, item.ImageRef, item.ImageId = st.Id, st.Metadata, st.Image, st.ImageRef, st.ImageId
	item.State, item.CreatedAt, item.Labels, item.Annotations = st.State, st.CreatedAt, st.Labels, st.Annotations
}

// matches says whether an item is one that a filter asks for.
func matches(filter *runtimeapi.ContainerFilter, item *runtimeapi.Container) bool {
	switch {
	case filter.GetId() != "" && filter.GetId() != item.Id,
		filter.GetState() != nil && filter.GetState().GetState() != item.State,
		filter.GetPodSandboxId() != "" && filter.GetPodSandboxId() != item.PodSandboxId:
		return false
	}
	for k, v := range filter.GetLabelSelector() {
		if item.Labels[k] != v {
			return false
		}
	}
	return true
}
