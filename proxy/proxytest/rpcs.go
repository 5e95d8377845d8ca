package proxytest

import (
	"fmt"
	"strings"
	"sync"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The API versions of CRI, as the packages of its services on the wire. They
// share their messages: cri-api has Go types for v1 only. v1alpha2 differs from
// it in nothing but the name, v1alpha1 in having fewer RPCs and in what
// NamespaceOption means (dialect.go).
const (
	V1       = "runtime.v1"
	V1alpha2 = "runtime.v1alpha2"
	V1alpha1 = "runtime"
)

// RPC is one method of a CRI service, as the descriptors of cri-api have it.
type RPC struct {
	// Service is the service's name without its package: "RuntimeService".
	Service string
	// Name is the method's name, unique across the services: "Version".
	Name string
	// ClientStreams and ServerStreams tell the kind of the call; a unary one
	// has neither.
	ClientStreams, ServerStreams bool

	input, output protoreflect.MessageDescriptor
}

// Path is the RPC's full method name under an API version, as it stands in
// the path of the HTTP/2 request: "/runtime.v1.RuntimeService/Version".
func (r RPC) Path(api string) string {
	return "/" + api + "." + r.Service + "/" + r.Name
}

// String is the RPC's name for people: "RuntimeService/Version".
func (r RPC) String() string { return r.Service + "/" + r.Name }

// NewRequest returns an empty request message.
func (r RPC) NewRequest() proto.Message { return newMessage(r.input) }

// NewAnswer returns an empty answer message.
func (r RPC) NewAnswer() proto.Message { return newMessage(r.output) }

// RPCs lists every RPC of every service in cri-api, in the order of api.proto.
func RPCs() []RPC {
	var rpcs []RPC
	services := apiFile().Services()
	for i := range services.Len() {
		service := services.Get(i)
		for j := range service.Methods().Len() {
			m := service.Methods().Get(j)
			rpcs = append(rpcs, RPC{
				Service:       string(service.Name()),
				Name:          string(m.Name()),
				ClientStreams: m.IsStreamingClient(),
				ServerStreams: m.IsStreamingServer(),
				input:         m.Input(),
				output:        m.Output(),
			})
		}
	}
	return rpcs
}

// LogPathFields lists every field of cri-api that names a log file or the
// directory of one: the full names of all fields called log_path or
// log_directory.
func LogPathFields() []string {
	var fields []string
	var walk func(protoreflect.MessageDescriptors)
	walk = func(messages protoreflect.MessageDescriptors) {
		for i := range messages.Len() {
			m := messages.Get(i)
			for j := range m.Fields().Len() {
				if f := m.Fields().Get(j); isLogPath(f) {
					fields = append(fields, string(f.FullName()))
				}
			}
			walk(m.Messages())
		}
	}
	walk(apiFile().Messages())
	return fields
}

// LogPathUses lists where those fields appear in the RPCs' requests and
// answers, at whatever depth:
// "RuntimeService/CreateContainer request config.log_path".
func LogPathUses() []string {
	var uses []string
	for _, r := range RPCs() {
		for _, path := range logPathsOf(r.input, nil) {
			uses = append(uses, fmt.Sprintf("%v request %s", r, path))
		}
		for _, path := range logPathsOf(r.output, nil) {
			uses = append(uses, fmt.Sprintf("%v answer %s", r, path))
		}
	}
	return uses
}

// logPathsOf walks a message type down to its log paths. The types that it is
// inside of are in above, so that a recursive one ends.
func logPathsOf(m protoreflect.MessageDescriptor, above []protoreflect.FullName) []string {
	for _, name := range above {
		if name == m.FullName() {
			return nil
		}
	}
	above = append(above[:len(above):len(above)], m.FullName())
	var paths []string
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		if isLogPath(f) {
			paths = append(paths, string(f.Name()))
		}
		if f.Message() != nil {
			for _, path := range logPathsOf(f.Message(), above) {
				paths = append(paths, string(f.Name())+"."+path)
			}
		}
	}
	return paths
}

func isLogPath(f protoreflect.FieldDescriptor) bool {
	return f.Name() == "log_path" || f.Name() == "log_directory"
}

// apiFile is api.proto, reached through one of its messages because the
// variable generated for the file is named after the path it was compiled at.
func apiFile() protoreflect.FileDescriptor {
	return (*runtimeapi.VersionRequest)(nil).ProtoReflect().Descriptor().ParentFile()
}

func newMessage(d protoreflect.MessageDescriptor) proto.Message {
	t, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		panic(err) // the descriptor itself comes from the registry
	}
	return t.New().Interface()
}

// rpcsByName is RPCs by their bare name.
var rpcsByName = sync.OnceValue(func() map[string]RPC {
	byName := make(map[string]RPC)
	for _, r := range RPCs() {
		byName[r.Name] = r
	}
	return byName
})

// findRPC looks a full method name up, under any API version.
func findRPC(method string) (RPC, bool) {
	service, name := splitMethod(method)
	r, ok := rpcsByName()[name]
	if !ok || !strings.HasSuffix(service, "."+r.Service) || !isCRI(service) {
		return RPC{}, false
	}
	return r, true
}

// isCRI reports whether a service belongs to some version of CRI.
func isCRI(service string) bool {
	return strings.HasPrefix(service, "runtime.")
}

// splitMethod cuts "/service/name" in two.
func splitMethod(method string) (service, name string) {
	service, name, _ = strings.Cut(strings.TrimPrefix(method, "/"), "/")
	return service, name
}
