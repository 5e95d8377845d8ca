package proxy

import (
	"fmt"
	"strings"
	"sync"
)

// Intercept says which pods' containers are ours. All others pass untouched.
type Intercept string

const (
	// InterceptAll is for an endpoint that has only VMs behind it.
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

// ours says whether a pod with these annotations is ours.
func (c *Config) ours(annotations map[string]string) bool {
	if c.Intercept != InterceptAnnotation {
		return true
	}
	runtime := annotations[TargetRuntimeAnnotation]
	return runtime == "virtlet.cloud" || runtime == "virtlet"
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
