package proxy

import (
	"github.com/golang/glog"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-logproxy/cri-logproxy/proxy/personality"
)

// askedNamespaces are the namespaces that a pod asks for, for the record. The pod
// may outlive this runtime, and the next one may need the repair.
func askedNamespaces(req *runtimeapi.RunPodSandboxRequest) []byte {
	options := req.GetConfig().GetLinux().GetSecurityContext().GetNamespaceOptions()
	if options == nil {
		return nil
	}
	encoded, err := proto.Marshal(options)
	if err != nil {
		glog.Errorf("encode the namespaces of a pod: %v", err)
	}
	return encoded
}

// repairNamespaces says in a status which namespaces the pod has asked for. It
// reports whether that changed anything.
func (s *Server) repairNamespaces(st *runtimeapi.PodSandboxStatus) bool {
	if !s.has(personality.Namespaces) {
		return false
	}
	sandbox, ok := s.logs.Sandbox(st.GetId())
	if !ok || sandbox.Namespaces == nil {
		return false
	}
	asked := &runtimeapi.NamespaceOption{}
	if err := proto.Unmarshal(sandbox.Namespaces, asked); err != nil {
		glog.Errorf("the namespaces of sandbox %s: %v", st.GetId(), err)
		return false
	}
	return personality.AskedNamespaces(st, asked)
}
