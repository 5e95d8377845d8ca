package proxytest

import (
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/anypb"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Methods that CRI does not have.
const (
	unknownService = "/example.Unknown/Call"
	unknownMethod  = "/" + V1 + ".RuntimeService/NotYetInvented"
)

// unaryMethods is one unary method of every kind: one that a proxy has no
// interest in, those that it decodes on the way in and on the way out, one of
// the other service, and unknown ones.
func unaryMethods() []string {
	return []string{
		"/" + V1 + ".RuntimeService/Status",
		"/" + V1 + ".RuntimeService/CreateContainer",
		"/" + V1 + ".RuntimeService/ContainerStatus",
		"/" + V1alpha2 + ".RuntimeService/StopContainer",
		"/" + V1 + ".ImageService/ListImages",
		unknownService,
		unknownMethod,
	}
}

// streamMethods is the same for server-streaming methods.
func streamMethods() []string {
	return []string{
		"/" + V1 + ".RuntimeService/StreamPodSandboxes",
		"/" + V1 + ".RuntimeService/GetContainerEvents",
		"/" + V1alpha2 + ".ImageService/StreamImages",
		unknownService,
	}
}

// requestFor is a request for any method: every field set where the method is
// one of CRI, and otherwise bytes that are no protobuf message at all.
func requestFor(method string) []byte {
	if rpc, ok := findRPC(method); ok {
		request := rpc.NewRequest()
		Populate(request, 7)
		return spoken(method, request)
	}
	return []byte("\xff\x00 no protobuf \x07")
}

// answerFor is the i-th of the answers that go with it.
func answerFor(method string, i int) []byte {
	if rpc, ok := findRPC(method); ok {
		return spoken(method, DefaultAnswer(rpc, i))
	}
	return append([]byte("\xff\x00 answer "), byte(i))
}

// padded is a valid message of any type and of exactly that many bytes, which
// must be at least 16. All of them are in a field that no type has.
func padded(size int) []byte {
	msg := make([]byte, size)
	head := protowire.AppendTag(msg[:0], unknownField, protowire.BytesType)
	fill := size - len(head) - protowire.SizeVarint(uint64(size))
	if len(head)+protowire.SizeBytes(fill) < size {
		fill++ // its length takes a byte less than the whole's
	}
	if len(head)+protowire.SizeBytes(fill) > size {
		// And a byte more again, with fill one longer: no single field has
		// this size.
		head = protowire.AppendTag(msg[:0], unknownField, protowire.VarintType)
		head = protowire.AppendVarint(head, 1)
		copy(msg[len(head):], padded(size-len(head)))
		return msg
	}
	protowire.AppendVarint(head, uint64(fill))
	return msg
}

// someMetadata has a key with several values, a binary one, and an empty one.
func someMetadata(prefix string) metadata.MD {
	return metadata.MD{
		prefix + "-one":   {"one"},
		prefix + "-many":  {"b", "a", "b", "with, comma and space"},
		prefix + "-bin":   {"\x00\x01\xff\xfe", "", "second \x80"},
		prefix + "-empty": {""},
	}
}

// detailed is an error status with two details: one of a type that the process
// knows and one of a type that nobody knows.
func detailed(code codes.Code, message string) error {
	known := &runtimeapi.ContainerStatus{}
	Populate(known, 3)
	st, err := status.New(code, message).WithDetails(protoadapt.MessageV1Of(known))
	if err != nil {
		panic(err) // only for the code OK
	}
	p := st.Proto()
	p.Details = append(p.Details, &anypb.Any{TypeUrl: "example.com/unknown.Type", Value: []byte("\xff\x00detail")})
	return status.ErrorProto(p)
}

// handle scripts a method, under every API version if it is one of CRI, so
// that it also works behind a proxy that renames the version.
func (s *session) handle(method string, h Handler) {
	if service, name := splitMethod(method); isCRI(service) {
		method = name
	}
	s.backend.Handle(method, h)
}
