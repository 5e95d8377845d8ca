package api

import (
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TranslateRequest gives the request of a method from one version in the terms
// of another. It is the same slice where nothing differs. What cannot be parsed
// is for the runtime to refuse.
func TranslateRequest(name string, from, to Version, request []byte) []byte {
	switch name {
	case "RunPodSandbox":
		return translate(&runtimeapi.RunPodSandboxRequest{}, from, to, request)
	case "CreateContainer":
		return translate(&runtimeapi.CreateContainerRequest{}, from, to, request)
	}
	return request
}

// TranslateAnswer does the same with an answer.
func TranslateAnswer(name string, from, to Version, answer []byte) []byte {
	if name == "PodSandboxStatus" {
		return translate(&runtimeapi.PodSandboxStatusResponse{}, from, to, answer)
	}
	return answer
}

func translate(m proto.Message, from, to Version, b []byte) []byte {
	if (from == V1alpha1) == (to == V1alpha1) || proto.Unmarshal(b, m) != nil {
		return b
	}
	changed := false
	for _, options := range namespaceOptions(m) {
		if options != nil && translateOptions(options, to) {
			changed = true
		}
	}
	if !changed {
		return b
	}
	translated, err := proto.Marshal(m)
	if err != nil {
		return b
	}
	return translated
}

// namespaceOptions are those that a message has room for; nil where it has none.
func namespaceOptions(m proto.Message) []*runtimeapi.NamespaceOption {
	switch m := m.(type) {
	case *runtimeapi.RunPodSandboxRequest:
		return []*runtimeapi.NamespaceOption{m.GetConfig().GetLinux().GetSecurityContext().GetNamespaceOptions()}
	case *runtimeapi.CreateContainerRequest:
		return []*runtimeapi.NamespaceOption{
			m.GetConfig().GetLinux().GetSecurityContext().GetNamespaceOptions(),
			m.GetSandboxConfig().GetLinux().GetSecurityContext().GetNamespaceOptions(),
		}
	case *runtimeapi.PodSandboxStatusResponse:
		return []*runtimeapi.NamespaceOption{m.GetStatus().GetLinux().GetNamespaces().GetOptions()}
	}
	return nil
}

// translateOptions reports whether it changed anything. v1alpha1 has bools
// (host_network, host_pid, host_ipc) where v1 has modes, under the same field
// numbers: 0 and 1 on the wire. CONTAINER is 1, too, and kubelet's usual mode
// for pid: untranslated it would read as host_pid.
func translateOptions(o *runtimeapi.NamespaceOption, to Version) (changed bool) {
	network, pid, ipc := toBool(o.Network), toBool(o.Pid), toBool(o.Ipc)
	if to != V1alpha1 {
		network = fromBool(o.Network, runtimeapi.NamespaceMode_POD)
		pid = fromBool(o.Pid, runtimeapi.NamespaceMode_CONTAINER) // as it was before pods could share it
		ipc = fromBool(o.Ipc, runtimeapi.NamespaceMode_POD)
	}
	changed = network != o.Network || pid != o.Pid || ipc != o.Ipc
	o.Network, o.Pid, o.Ipc = network, pid, ipc
	return changed
}

func toBool(mode runtimeapi.NamespaceMode) runtimeapi.NamespaceMode {
	if mode == runtimeapi.NamespaceMode_NODE {
		return 1
	}
	return 0
}

func fromBool(host, otherwise runtimeapi.NamespaceMode) runtimeapi.NamespaceMode {
	if host != 0 {
		return runtimeapi.NamespaceMode_NODE
	}
	return otherwise
}
