package proxytest

import (
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestRPCs compares with the tables that generated code serves by.
func TestRPCs(t *testing.T) {
	var want []string
	for _, m := range runtimeapi.RuntimeService_ServiceDesc.Methods {
		want = append(want, "/runtime.v1.RuntimeService/"+m.MethodName)
	}
	for _, m := range runtimeapi.ImageService_ServiceDesc.Methods {
		want = append(want, "/runtime.v1.ImageService/"+m.MethodName)
	}
	for _, m := range runtimeapi.RuntimeService_ServiceDesc.Streams {
		want = append(want, "/runtime.v1.RuntimeService/"+m.StreamName+" streams")
	}
	for _, m := range runtimeapi.ImageService_ServiceDesc.Streams {
		want = append(want, "/runtime.v1.ImageService/"+m.StreamName+" streams")
	}
	var got []string
	for _, r := range RPCs() {
		name := r.Path(V1)
		if r.ServerStreams {
			name += " streams"
		}
		got = append(got, name)
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
}

func TestLogPaths(t *testing.T) {
	for _, want := range []string{
		"runtime.v1.PodSandboxConfig.log_directory",
		"runtime.v1.ContainerConfig.log_path",
		"runtime.v1.ContainerStatus.log_path",
	} {
		if !slices.Contains(LogPathFields(), want) {
			t.Errorf("%s is not in %q", want, LogPathFields())
		}
	}
	for _, want := range []string{
		"RuntimeService/RunPodSandbox request config.log_directory",
		"RuntimeService/CreateContainer request config.log_path",
		"RuntimeService/CreateContainer request sandbox_config.log_directory",
		"RuntimeService/ContainerStatus answer status.log_path",
		"RuntimeService/PodSandboxStatus answer containers_statuses.log_path",
		"RuntimeService/GetContainerEvents answer containers_statuses.log_path",
	} {
		if !slices.Contains(LogPathUses(), want) {
			t.Errorf("%s is not in %q", want, LogPathUses())
		}
	}
	t.Logf("%q", LogPathUses())
}

// TestPopulate checks that no field is left out, that the encoding is the same
// every time, and that decoding and encoding gives the same bytes, on which
// the comparison of a proxy that decodes relies.
func TestPopulate(t *testing.T) {
	for i, r := range RPCs() {
		for _, m := range []proto.Message{r.NewRequest(), r.NewAnswer()} {
			Populate(m, i)
			checkFull(t, m.ProtoReflect())
			data := encode(m)
			again := m.ProtoReflect().New().Interface()
			if err := proto.Unmarshal(populated(m.ProtoReflect().New().Interface(), i), again); err != nil {
				t.Fatal(err)
			}
			if d := diffBytes(data, encode(again)); d != "" {
				t.Errorf("%v: %s", r, d)
			}
		}
	}
}

func checkFull(t *testing.T, m protoreflect.Message) {
	t.Helper()
	if len(m.GetUnknown()) == 0 {
		t.Errorf("%s has no unknown field", m.Descriptor().FullName())
	}
	for i := range m.Descriptor().Fields().Len() {
		f := m.Descriptor().Fields().Get(i)
		if !m.Has(f) && f.ContainingOneof() == nil {
			t.Errorf("%s is not set", f.FullName())
			continue
		}
		if f.Message() == nil || f.IsMap() {
			continue
		}
		if f.IsList() {
			for j := range m.Get(f).List().Len() {
				checkFull(t, m.Get(f).List().Get(j).Message())
			}
			continue
		}
		checkFull(t, m.Get(f).Message())
	}
}

func TestPadded(t *testing.T) {
	sizes := []int{16383, 16384, 16387, 16388, 16389, 16390, MaxMessage, MaxMessage + 1}
	for size := 16; size < 300; size++ {
		sizes = append(sizes, size)
	}
	for _, size := range sizes {
		msg := padded(size)
		if err := proto.Unmarshal(msg, &runtimeapi.VersionRequest{}); err != nil || len(msg) != size {
			t.Errorf("padded(%d) has %d bytes, error %v", size, len(msg), err)
		}
	}
}
