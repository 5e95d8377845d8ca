package proxytest

import (
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// v1alpha1RPCs are the RPCs of CRI in Kubernetes 1.9, the last with v1alpha1.
var v1alpha1RPCs = []string{
	"Version", "RunPodSandbox", "StopPodSandbox", "RemovePodSandbox", "PodSandboxStatus", "ListPodSandbox",
	"CreateContainer", "StartContainer", "StopContainer", "RemoveContainer", "ListContainers", "ContainerStatus",
	"UpdateContainerResources", "ExecSync", "Exec", "Attach", "PortForward", "ContainerStats", "ListContainerStats",
	"UpdateRuntimeConfig", "Status",
	"ListImages", "ImageStatus", "PullImage", "RemoveImage", "ImageFsInfo",
}

// Exists tells whether the RPC is one of an API version. v1alpha2 has them all
// here, for it is v1 under another name.
func (r RPC) Exists(api string) bool {
	return api != V1alpha1 || slices.Contains(v1alpha1RPCs, r.Name)
}

// toBools makes a message of v1 one of v1alpha1: its NamespaceOption has bools,
// true for the host's, in place of modes.
func toBools(m proto.Message) {
	eachNamespaceOption(m.ProtoReflect(), func(o *runtimeapi.NamespaceOption) {
		for _, mode := range []*runtimeapi.NamespaceMode{&o.Network, &o.Pid, &o.Ipc} {
			if *mode == runtimeapi.NamespaceMode_NODE {
				*mode = 1
			} else {
				*mode = 0
			}
		}
	})
}

// fromBools makes a message of v1alpha1 one of v1 that means the same.
func fromBools(m proto.Message) {
	eachNamespaceOption(m.ProtoReflect(), func(o *runtimeapi.NamespaceOption) {
		mode := func(host, otherwise runtimeapi.NamespaceMode) runtimeapi.NamespaceMode {
			if host != 0 {
				return runtimeapi.NamespaceMode_NODE
			}
			return otherwise
		}
		o.Network = mode(o.Network, runtimeapi.NamespaceMode_POD)
		o.Pid = mode(o.Pid, runtimeapi.NamespaceMode_CONTAINER)
		o.Ipc = mode(o.Ipc, runtimeapi.NamespaceMode_POD)
	})
}

// translated puts a message from one API version into the terms of another.
func translated(m proto.Message, from, to string) {
	switch {
	case from == to:
	case to == V1alpha1:
		toBools(m)
	case from == V1alpha1:
		fromBools(m)
	}
}

// spoken is the encoding of a message, made in the terms of v1, in those of the
// API version that a method belongs to.
func spoken(method string, m proto.Message) []byte {
	if service, _ := splitMethod(method); inPackage(service, V1alpha1) {
		m = proto.Clone(m)
		toBools(m)
	}
	return encode(m)
}

// eachNamespaceOption finds them at whatever depth.
func eachNamespaceOption(m protoreflect.Message, do func(*runtimeapi.NamespaceOption)) {
	if o, ok := m.Interface().(*runtimeapi.NamespaceOption); ok {
		do(o)
		return
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsMap() || f.Message() == nil:
		case f.IsList():
			for i := range v.List().Len() {
				eachNamespaceOption(v.List().Get(i).Message(), do)
			}
		default:
			eachNamespaceOption(v.Message(), do)
		}
		return true
	})
}
