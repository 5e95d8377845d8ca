package proxy

import (
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-logproxy/cri-logproxy/proxy/personality"
)

// listContainerStats answers for every container that runs, also where the
// runtime fails for all because of one that does not.
func (s *Server) listContainerStats(c *call) ([]byte, error) {
	var req runtimeapi.ListContainerStatsRequest
	if !c.read(&req) {
		return c.forward(c.request)
	}
	filter := req.GetFilter()
	running, err := s.listed(outgoing(c.ctx), &runtimeapi.ContainerFilter{
		Id: filter.GetId(), PodSandboxId: filter.GetPodSandboxId(), LabelSelector: filter.GetLabelSelector(),
		State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING},
	})
	if err != nil {
		return nil, err
	}
	if filter.GetId() != "" {
		w := s.who(c.ctx, filter.Id)
		if w.ended != nil || w.gone {
			return nil, nil
		}
		filter.Id = w.id
	}
	var resp runtimeapi.ListContainerStatsResponse
	allErr := s.ask(outgoing(c.ctx), "ListContainerStats", &req, &resp)
	if code := status.Code(allErr); allErr != nil && code != codes.Unknown && code != codes.Unimplemented {
		return nil, allErr // nobody has said anything about statistics
	}
	known := make(map[string]*runtimeapi.ContainerStats)
	for _, stats := range resp.Stats {
		known[stats.GetAttributes().GetId()] = stats
	}
	for _, item := range running {
		id, other := s.who(c.ctx, item.Id).id, s.others.has(item.Id)
		stats := known[id]
		if stats == nil && (allErr != nil || !other) {
			if stats, err = s.statsOf(c, id); status.Code(err) == codes.Unimplemented {
				break // for all of them
			}
			if stats == nil {
				continue
			}
			resp.Stats = append(resp.Stats, stats)
		}
		if !other {
			personality.NameStats(stats, item)
		}
	}
	return proto.Marshal(&resp)
}

// statsOf asks for the statistics of one container; nil if there are none.
func (s *Server) statsOf(c *call, id string) (*runtimeapi.ContainerStats, error) {
	var resp runtimeapi.ContainerStatsResponse
	err := s.ask(outgoing(c.ctx), "ContainerStats", &runtimeapi.ContainerStatsRequest{ContainerId: id}, &resp)
	return resp.Stats, personality.Code("ContainerStats", err)
}

func (s *Server) containerStats(c *call) ([]byte, error) {
	var req runtimeapi.ContainerStatsRequest
	answer, err := c.forward(c.request)
	if err != nil || !c.read(&req) || s.others.has(req.ContainerId) {
		return answer, err
	}
	item := s.list(c.ctx, req.ContainerId)
	if item == nil {
		return answer, nil
	}
	s.repairListed(c.ctx, item)
	var resp runtimeapi.ContainerStatsResponse
	return s.rewrite(answer, &resp, func() bool {
		if resp.Stats != nil {
			personality.NameStats(resp.Stats, item)
		}
		return resp.Stats != nil
	}), nil
}

// imageFsInfo answers for a runtime that does not know it, by what the file
// system itself says.
func (s *Server) imageFsInfo(c *call) ([]byte, error) {
	answer, err := c.forward(c.request)
	if status.Code(personality.Code(c.name, err)) != codes.Unimplemented {
		return answer, err
	}
	info, err := personality.ImageFSInfo(personality.VirtletDir)
	if err != nil {
		return nil, status.Errorf(codes.Internal, "cri-logproxy: %v", err)
	}
	return proto.Marshal(info)
}
