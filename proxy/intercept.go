package proxy

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/golang/glog"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Intercept says which pods' containers are ours. All others pass untouched.
type Intercept string

const (
	// InterceptAll is for an endpoint that has only VMs behind it. At one of
	// containerRuntimes it is InterceptAnnotation.
	InterceptAll Intercept = "all"
	// InterceptAnnotation is for one that has containers, too: ours are the pods
	// with TargetRuntimeAnnotation.
	InterceptAnnotation Intercept = "annotation"
)

// TargetRuntimeAnnotation is what CRIProxy knows Virtlet's pods by, at the value
// virtlet.cloud; virtlet, until 2017.
const TargetRuntimeAnnotation = "kubernetes.io/target-runtime"

// ParseIntercept reads an Intercept.
func ParseIntercept(s string) (Intercept, error) {
	switch i := Intercept(s); i {
	case InterceptAll, InterceptAnnotation:
		return i, nil
	}
	return "", fmt.Errorf("%q: want all or annotation", s)
}

// containerRuntimes call themselves so. They have no VMs behind them that are ours.
var containerRuntimes = []string{"containerd", "cri-o"}

// onlyAnnotated says whether ours are the pods with TargetRuntimeAnnotation only.
func (c *Config) onlyAnnotated(p Peer) bool {
	return c.Intercept == InterceptAnnotation || slices.Contains(containerRuntimes, p.Name)
}

// ours says whether a pod with these annotations is ours.
func (s *Server) ours(annotations map[string]string) bool {
	runtime := annotations[TargetRuntimeAnnotation]
	return !s.onlyAnnotated.Load() || runtime == "virtlet.cloud" || runtime == "virtlet"
}

// dropOthers forgets what is on record of pods that are not ours by what is known
// now: --intercept was corrected, or a runtime has told its name at last. Their
// logs stay as they are. pods are those that the runtime lists.
func (s *Server) dropOthers(ctx context.Context, pods []*runtimeapi.PodSandbox) {
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	for _, p := range pods {
		if len(p.Annotations) == 0 || s.ours(p.Annotations) { // kubelet gives each pod some
			continue
		}
		for _, record := range s.logs.InSandbox(p.Id) {
			glog.Infof("container %s (%s/%s %s) is of a pod that is not taken for a VM: its log is left to the runtime", record.ID, record.Namespace, record.Pod, record.Name)
			s.others.add(record.ID)
			s.recorded(s.converters.Forget(ctx, record.ID))
			s.recorded(s.logs.RemoveContainer(record.ID))
			s.alive.remove(record.ID)
		}
		if _, ok := s.logs.Sandbox(p.Id); ok {
			s.forgetAttempts(p.Id)
			s.recorded(s.logs.RemoveSandbox(p.Id))
		}
	}
}

// bareID is the ID that the runtime itself has given: CRIProxy puts the
// runtime's name in front of it, `virtlet.cloud__<id>`.
func bareID(id string) string {
	if _, bare, ok := strings.Cut(id, "__"); ok {
		return bare
	}
	return id
}

// idSet is a set of container IDs, for any goroutine.
type idSet struct{ ids sync.Map }

func (s *idSet) add(id string)      { s.ids.Store(id, nil) }
func (s *idSet) remove(id string)   { s.ids.Delete(id) }
func (s *idSet) has(id string) bool { _, ok := s.ids.Load(id); return ok }

// all returns what is in the set now.
func (s *idSet) all() (ids []string) {
	s.ids.Range(func(id, _ any) bool {
		ids = append(ids, id.(string))
		return true
	})
	return ids
}
