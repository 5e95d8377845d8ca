package vmruntime

import (
	"context"
	"fmt"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ListContainerStats fails for all as soon as one virtual machine is off.
func (s *runtimeService) ListContainerStats(_ context.Context, req *cri.ListContainerStatsRequest) (*cri.ListContainerStatsResponse, error) {
	if !s.era.stats {
		return nil, fmt.Errorf("ListContainerStats() %w", errNotImplemented)
	}
	filter := req.GetFilter()
	var all []*cri.ContainerStats
	for _, sb := range s.store.all() {
		if sb.Container == nil ||
			filter.GetId() != "" && filter.GetId() != sb.Container.ID ||
			filter.GetPodSandboxId() != "" && filter.GetPodSandboxId() != sb.ID ||
			!matches(filter.GetLabelSelector(), sb.containerLabels()) {
			continue
		}
		stats, err := s.stats(sb.Container.ID)
		if err != nil {
			return nil, err
		}
		all = append(all, stats)
	}
	return &cri.ListContainerStatsResponse{Stats: all}, nil
}

func (s *runtimeService) ContainerStats(_ context.Context, req *cri.ContainerStatsRequest) (*cri.ContainerStatsResponse, error) {
	if !s.era.stats {
		return nil, fmt.Errorf("ContainerStats() %w", errNotImplemented)
	}
	if _, ok := s.store.byContainer(req.GetContainerId()); !ok {
		return nil, errNoDomain
	}
	stats, err := s.stats(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	return &cri.ContainerStatsResponse{Stats: stats}, nil
}

// stats has the container's ID where its name should be, and no labels.
func (r *Runtime) stats(id string) (*cri.ContainerStats, error) {
	cpu, memory, err := r.libv.usage(id)
	if err != nil {
		return nil, err
	}
	now := time.Now().UnixNano()
	return &cri.ContainerStats{
		Attributes: &cri.ContainerAttributes{Id: id, Metadata: &cri.ContainerMetadata{Name: id}},
		Cpu:        &cri.CpuUsage{Timestamp: now, UsageCoreNanoSeconds: &cri.UInt64Value{Value: cpu}},
		Memory:     &cri.MemoryUsage{Timestamp: now, WorkingSetBytes: &cri.UInt64Value{Value: memory}},
		WritableLayer: &cri.FilesystemUsage{
			Timestamp:  now,
			FsId:       &cri.FilesystemIdentifier{Mountpoint: r.o.StateDir},
			UsedBytes:  &cri.UInt64Value{},
			InodesUsed: &cri.UInt64Value{Value: 1},
		},
	}, nil
}
