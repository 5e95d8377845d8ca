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

// v1alpha2Methods are the calls that CRI v1alpha2 had when Virtlet took it up.
// All others are unknown to its services, not only unimplemented.
var v1alpha2Methods = []string{
	"Version", "Status", "UpdateRuntimeConfig",
	"RunPodSandbox", "StopPodSandbox", "RemovePodSandbox", "PodSandboxStatus", "ListPodSandbox",
	"CreateContainer", "StartContainer", "StopContainer", "RemoveContainer",
	"ListContainers", "ContainerStatus", "UpdateContainerResources", "ReopenContainerLog",
	"ExecSync", "Exec", "Attach", "PortForward", "ContainerStats", "ListContainerStats",
	"ListImages", "ImageStatus", "PullImage", "RemoveImage", "ImageFsInfo",
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
// of the two versions are the same on the wire, and so the handlers are, too.
func describe(desc grpc.ServiceDesc, api API) *grpc.ServiceDesc {
	if api == V1 {
		return &desc
	}
	desc.ServiceName = string(api) + strings.TrimPrefix(desc.ServiceName, string(V1))
	desc.Streams = nil
	desc.Methods = slices.DeleteFunc(slices.Clone(desc.Methods), func(m grpc.MethodDesc) bool {
		return !slices.Contains(v1alpha2Methods, m.MethodName)
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
