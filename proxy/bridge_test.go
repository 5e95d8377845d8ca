package proxy

import (
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/cri-logproxy/cri-logproxy/proxy/proxytest"
)

// TestReworded has a runtime name itself in errors, to a client of another
// version.
func TestReworded(t *testing.T) {
	for _, test := range []struct {
		runtime      string
		says, reads  string
		clientMethod string
	}{
		{proxytest.V1alpha2,
			"unknown method RuntimeConfig for service runtime.v1alpha2.RuntimeService",
			"unknown method RuntimeConfig for service runtime.v1.RuntimeService [the runtime speaks CRI v1alpha2]", statusV1},
		{proxytest.V1alpha1,
			"unknown service runtime.RuntimeService",
			"unknown service runtime.v1.RuntimeService [the runtime speaks CRI v1alpha1]", statusV1},
		{proxytest.V1alpha1,
			"/runtime.RuntimeService/A, runtime.RuntimeService.",
			"/runtime.v1alpha2.RuntimeService/A, runtime.v1alpha2.RuntimeService. [the runtime speaks CRI v1alpha1]", statusV1alpha2},
		{proxytest.V1,
			"unknown service runtime.v1.ImageService",
			"unknown service runtime.v1alpha2.ImageService [the runtime speaks CRI v1]", "/runtime.v1alpha2.ImageService/ListImages"},
		// Not the service's name, or not of this call.
		{proxytest.V1alpha1, "my.runtime.RuntimeService", "my.runtime.RuntimeService", statusV1},
		{proxytest.V1alpha1, "runtime.RuntimeServices", "runtime.RuntimeServices", statusV1},
		{proxytest.V1alpha1, "runtime.ImageService", "runtime.ImageService", statusV1},
		{proxytest.V1alpha2, "no such container: 100% \n$1", "no such container: 100% \n$1", statusV1},
		{proxytest.V1, "unknown service runtime.v1.RuntimeService", "unknown service runtime.v1.RuntimeService", statusV1},
	} {
		backend := newBackend(t, test.runtime)
		detail := &anypb.Any{TypeUrl: "example.com/unknown.Type", Value: []byte("\xff\x00detail")}
		refuse := func(s *proxytest.Stream) error {
			if _, err := s.RecvAll(); err != nil {
				return err
			}
			st := status.New(codes.FailedPrecondition, test.says).Proto()
			st.Details = append(st.Details, detail)
			return status.ErrorProto(st)
		}
		backend.Handle("Status", refuse)
		backend.Handle("ListImages", refuse)
		conn, _ := connect(t, backend.Socket())
		st := status.Convert(invoke(t, conn, test.clientMethod))
		if st.Code() != codes.FailedPrecondition || st.Message() != test.reads {
			t.Errorf("%q reads %v %q", test.says, st.Code(), st.Message())
		}
		if d := st.Proto().GetDetails(); len(d) != 1 || d[0].TypeUrl != detail.TypeUrl || string(d[0].Value) != string(detail.Value) {
			t.Errorf("%q has details %v", test.says, d)
		}
	}
}

// TestLacking calls what only the newer version has.
func TestLacking(t *testing.T) {
	backend := newBackend(t, proxytest.V1alpha1)
	conn, _ := connect(t, backend.Socket())
	err := invoke(t, conn, "/runtime.v1.RuntimeService/ReopenContainerLog")
	want := "unknown method ReopenContainerLog for service runtime.v1.RuntimeService [the runtime speaks CRI v1alpha1]"
	if st := status.Convert(err); st.Code() != codes.Unimplemented || st.Message() != want {
		t.Errorf("got %v", err)
	}
}
