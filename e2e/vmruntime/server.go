package vmruntime

import (
	"slices"
	"strings"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// maxMessageSize is kubelet's own.
const maxMessageSize = 16 << 20

// v1alpha1Methods are the calls that CRI v1alpha1 had when Virtlet took it up,
// with Kubernetes 1.7.
var v1alpha1Methods = []string{
	"Version", "Status", "UpdateRuntimeConfig",
	"RunPodSandbox", "StopPodSandbox", "RemovePodSandbox", "PodSandboxStatus", "ListPodSandbox",
	"CreateContainer", "StartContainer", "StopContainer", "RemoveContainer",
	"ListContainers", "ContainerStatus",
	"ExecSync", "Exec", "Attach", "PortForward", "ContainerStats", "ListContainerStats",
	"ListImages", "ImageStatus", "PullImage", "RemoveImage", "ImageFsInfo",
}

// v1alpha2Methods are those of v1alpha2, with Kubernetes 1.10.
var v1alpha2Methods = append([]string{"UpdateContainerResources", "ReopenContainerLog"}, v1alpha1Methods...)

// v1Methods are all that this version of cri-api has.
var v1Methods = allMethods(cri.RuntimeService_ServiceDesc, cri.ImageService_ServiceDesc)

func allMethods(services ...grpc.ServiceDesc) (names []string) {
	for _, s := range services {
		for _, m := range s.Methods {
			names = append(names, m.MethodName)
		}
	}
	return names
}

// methods returns the calls that a version has, nil for a version that is not
// known. All others are unknown to its services, not only unimplemented.
func methods(api API) []string {
	switch api {
	case V1:
		return v1Methods
	case V1alpha2:
		return v1alpha2Methods
	case V1alpha1:
		return v1alpha1Methods
	default:
		return nil
	}
}

// newServer returns a server of both services under each version's name.
func newServer(apis []API, codec encoding.CodecV2, rs cri.RuntimeServiceServer, is cri.ImageServiceServer) *grpc.Server {
	s := grpc.NewServer(
		grpc.MaxRecvMsgSize(maxMessageSize),
		grpc.MaxSendMsgSize(maxMessageSize),
		grpc.ForceServerCodecV2(codec),
		grpc.WaitForHandlers(true),
	)
	for _, api := range apis {
		s.RegisterService(describe(cri.RuntimeService_ServiceDesc, api), rs)
		s.RegisterService(describe(cri.ImageService_ServiceDesc, api), is)
	}
	return s
}

// describe returns a service's description as version api has it. The messages
// of all versions are the same on the wire, and so the handlers are, too.
func describe(desc grpc.ServiceDesc, api API) *grpc.ServiceDesc {
	if api == V1 {
		return &desc
	}
	desc.ServiceName = string(api) + strings.TrimPrefix(desc.ServiceName, string(V1))
	desc.Streams = nil
	desc.Methods = slices.DeleteFunc(slices.Clone(desc.Methods), func(m grpc.MethodDesc) bool {
		return !slices.Contains(methods(api), m.MethodName)
	})
	return &desc
}

// recordingCodec is grpc's codec for protobuf that keeps the bytes of the last
// CreateContainerRequest.
type recordingCodec struct {
	encoding.CodecV2

	mu     sync.Mutex
	create []byte
}

func newRecordingCodec() *recordingCodec {
	return &recordingCodec{CodecV2: encoding.GetCodecV2(proto.Name)}
}

// Unmarshal implements encoding.CodecV2.
func (c *recordingCodec) Unmarshal(data mem.BufferSlice, v any) error {
	if _, ok := v.(*cri.CreateContainerRequest); ok {
		c.mu.Lock()
		c.create = data.Materialize()
		c.mu.Unlock()
	}
	return c.CodecV2.Unmarshal(data, v)
}

func (c *recordingCodec) last() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.create)
}
