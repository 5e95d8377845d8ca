package proxy

import (
	"context"
	"slices"
	"time"

	"github.com/golang/glog"
)

// missing says since when the runtime has not listed what is on record.
type missing map[string]time.Time

// look compares what is on record with what the runtime lists of it now. gone has
// been missing at a look that long ago already: a runtime that has just started may
// not know all yet. A list that has nothing of what is on record is not believed.
// more says that something is missing.
func (m *missing) look(now time.Time, long time.Duration, onRecord []string, listed map[string]bool) (gone []string, more bool) {
	still := make(missing)
	for _, id := range onRecord {
		if listed[id] {
			continue
		}
		since, again := (*m)[id]
		if !again {
			since = now
		}
		still[id] = since
		if again && now.Sub(since) >= long {
			gone = append(gone, id)
		}
	}
	if len(listed) == 0 {
		return nil, len(still) > 0
	}
	*m = still
	return gone, len(still) > 0
}

// forgetContainers forgets those containers on record that are gone from the
// runtime. more says that it should be called again.
func (s *Server) forgetContainers(ctx context.Context, onRecord []string, listed map[string]bool) (more bool) {
	onRecord = slices.DeleteFunc(onRecord, func(id string) bool { // kubelet may have removed it meanwhile
		_, ok := s.logs.Container(id)
		return !ok
	})
	if doubting := len(onRecord) > 0 && len(listed) == 0; doubting != s.doubting {
		s.doubting = doubting
		if doubting {
			glog.Warningf("the runtime at %s lists none of the %d containers on record: they stay there until it lists one of its VMs again; if it is another runtime, correct --runtime-endpoint", s.cfg.RuntimeSocket, len(onRecord))
		} else {
			glog.Infof("the runtime at %s lists containers that are on record again", s.cfg.RuntimeSocket)
		}
	}
	gone, more := s.missing.look(time.Now(), s.lookAgain, onRecord, listed)
	for _, id := range gone {
		if s.runs(ctx, id) || ctx.Err() != nil {
			continue
		}
		record, _ := s.logs.Container(id)
		glog.Infof("container %s (%s/%s %s) is gone from the runtime", id, record.Namespace, record.Pod, record.Name)
		s.forget(ctx, id)
	}
	return more
}

// forgetSandboxes does so for sandboxes, which go after their containers.
func (s *Server) forgetSandboxes(ctx context.Context, onRecord []string, listed map[string]bool) (more bool) {
	gone, more := s.missingSandboxes.look(time.Now(), s.lookAgain, onRecord, listed)
	for _, id := range gone {
		if len(s.logs.InSandbox(id)) == 0 && ctx.Err() == nil {
			s.forgetSandbox(ctx, id)
		}
	}
	return more
}
