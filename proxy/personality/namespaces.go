package personality

import (
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Namespaces is for Virtlet 1.1 and later. Those before say what was asked for.
var Namespaces = &Repair{
	Name:   "namespaces",
	Reason: "a hostNetwork pod is said to have a network of its own, for which kubelet kills it at once",
	needed: isNewVirtlet,
}

// AskedNamespaces puts what RunPodSandbox has asked for into a status that says
// nothing but defaults. It reports whether that changed anything.
func AskedNamespaces(st *runtimeapi.PodSandboxStatus, asked *runtimeapi.NamespaceOption) bool {
	if st == nil || proto.Size(asked) == 0 || proto.Size(st.GetLinux().GetNamespaces().GetOptions()) > 0 {
		return false
	}
	if st.Linux == nil {
		st.Linux = &runtimeapi.LinuxPodSandboxStatus{}
	}
	if st.Linux.Namespaces == nil {
		st.Linux.Namespaces = &runtimeapi.Namespace{}
	}
	st.Linux.Namespaces.Options = asked
	return true
}
