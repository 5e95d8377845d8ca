package api_test

import (
	"bytes"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-logproxy/cri-logproxy/proxy/api"
)

// option is a NamespaceOption by its numbers on the wire: network, pid, ipc.
func option(network, pid, ipc runtimeapi.NamespaceMode) *runtimeapi.NamespaceOption {
	o := &runtimeapi.NamespaceOption{Network: network, Pid: pid, Ipc: ipc, TargetId: "target"}
	withUnknown(o)
	return o
}

// withUnknown adds a field to a message that its type does not have.
func withUnknown(m proto.Message) {
	field := protowire.AppendTag(nil, 50000, protowire.BytesType)
	m.ProtoReflect().SetUnknown(protowire.AppendString(field, "unknown"))
}

func runRequest(o *runtimeapi.NamespaceOption) *runtimeapi.RunPodSandboxRequest {
	m := &runtimeapi.RunPodSandboxRequest{Config: sandboxConfig(o), RuntimeHandler: "handler"}
	withUnknown(m)
	return m
}

func createRequest(o *runtimeapi.NamespaceOption) *runtimeapi.CreateContainerRequest {
	return &runtimeapi.CreateContainerRequest{
		PodSandboxId: "sandbox",
		Config: &runtimeapi.ContainerConfig{Linux: &runtimeapi.LinuxContainerConfig{
			SecurityContext: &runtimeapi.LinuxContainerSecurityContext{NamespaceOptions: o, Privileged: true},
		}},
		SandboxConfig: sandboxConfig(o),
	}
}

func sandboxConfig(o *runtimeapi.NamespaceOption) *runtimeapi.PodSandboxConfig {
	return &runtimeapi.PodSandboxConfig{Hostname: "host", Linux: &runtimeapi.LinuxPodSandboxConfig{
		SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: o, ReadonlyRootfs: true},
	}}
}

func statusAnswer(o *runtimeapi.NamespaceOption) *runtimeapi.PodSandboxStatusResponse {
	return &runtimeapi.PodSandboxStatusResponse{Status: &runtimeapi.PodSandboxStatus{Id: "id", Linux: &runtimeapi.LinuxPodSandboxStatus{
		Namespaces: &runtimeapi.Namespace{Options: o},
	}}}
}

// carriers are the messages that namespace options travel in.
var carriers = []struct {
	method  string
	message func(*runtimeapi.NamespaceOption) proto.Message
	apply   func(name string, from, to api.Version, b []byte) []byte
}{
	{"RunPodSandbox", func(o *runtimeapi.NamespaceOption) proto.Message { return runRequest(o) }, api.TranslateRequest},
	{"CreateContainer", func(o *runtimeapi.NamespaceOption) proto.Message { return createRequest(o) }, api.TranslateRequest},
	{"PodSandboxStatus", func(o *runtimeapi.NamespaceOption) proto.Message { return statusAnswer(o) }, api.TranslateAnswer},
}

func encode(t *testing.T, m proto.Message) []byte {
	t.Helper()
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestTranslate(t *testing.T) {
	for _, test := range []struct {
		name     string
		from, to api.Version
		before   *runtimeapi.NamespaceOption
		after    *runtimeapi.NamespaceOption
	}{
		{"host", api.V1, api.V1alpha1, option(2, 2, 2), option(1, 1, 1)},
		{"pod", api.V1, api.V1alpha1, option(0, 0, 0), option(0, 0, 0)},
		{"kubelet's usual", api.V1, api.V1alpha1, option(0, 1, 0), option(0, 0, 0)},
		{"target", api.V1alpha2, api.V1alpha1, option(2, 3, 0), option(1, 0, 0)},
		{"a mode of tomorrow", api.V1, api.V1alpha1, option(7, -1, 2), option(0, 0, 1)},
		{"true", api.V1alpha1, api.V1, option(1, 1, 1), option(2, 2, 2)},
		{"false", api.V1alpha1, api.V1alpha2, option(0, 0, 0), option(0, 1, 0)},
		{"one true", api.V1alpha1, api.V1, option(1, 0, 0), option(2, 1, 0)},
		{"an odd true", api.V1alpha1, api.V1, option(0, 0, 5), option(0, 1, 2)},
	} {
		for _, c := range carriers {
			got := c.apply(c.method, test.from, test.to, encode(t, c.message(test.before)))
			m := c.message(nil).ProtoReflect().New().Interface()
			if err := proto.Unmarshal(got, m); err != nil {
				t.Fatal(err)
			}
			if want := c.message(test.after); !proto.Equal(m, want) {
				t.Errorf("%s, %s from %v to %v: %v, want %v", test.name, c.method, test.from, test.to, m, want)
			}
		}
	}
}

// TestNothingToTranslate wants the very same bytes, be they as odd as these,
// which no encoder gives.
func TestNothingToTranslate(t *testing.T) {
	odd := func(m proto.Message) []byte {
		return append(protowire.AppendString(protowire.AppendTag(nil, 50001, protowire.BytesType), "first"), encode(t, m)...)
	}
	same := func(what string, got, sent []byte) {
		t.Helper()
		if !bytes.Equal(got, sent) || len(sent) > 0 && &got[0] != &sent[0] {
			t.Errorf("%s: %q became %q", what, sent, got)
		}
	}
	for _, c := range carriers {
		host := odd(c.message(option(2, 2, 2)))
		for _, pair := range [][2]api.Version{{api.V1, api.V1}, {api.V1, api.V1alpha2}, {api.V1alpha2, api.V1}, {api.V1alpha1, api.V1alpha1}} {
			same(c.method+" where both sides mean the same", c.apply(c.method, pair[0], pair[1], host), host)
		}
		pod := odd(c.message(option(0, 0, 0)))
		same(c.method+" without the host's", c.apply(c.method, api.V1, api.V1alpha1, pod), pod)
		none := odd(c.message(nil))
		same(c.method+" without options", c.apply(c.method, api.V1alpha1, api.V1, none), none)
		torn := host[:len(host)-1]
		same(c.method+" torn", c.apply(c.method, api.V1, api.V1alpha1, torn), torn)
		same(c.method+" empty", c.apply(c.method, api.V1, api.V1alpha1, nil), nil)
		same("another method", c.apply("Version", api.V1, api.V1alpha1, host), host)
	}
}

// FuzzTranslate has any bytes go to v1alpha1 and back: the host's namespaces are
// told apart from all others as before, and nothing else has changed.
func FuzzTranslate(f *testing.F) {
	for _, c := range carriers {
		for _, o := range []*runtimeapi.NamespaceOption{nil, option(2, 1, 0), option(0, 3, 2)} {
			b, err := proto.Marshal(c.message(o))
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b)
			f.Add(b[:len(b)/2])
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, c := range carriers {
			old := c.apply(c.method, api.V1, api.V1alpha1, b)
			back := c.apply(c.method, api.V1alpha1, api.V1, old)
			before, after := c.message(nil).ProtoReflect().New().Interface(), c.message(nil).ProtoReflect().New().Interface()
			if proto.Unmarshal(b, before) != nil {
				if !bytes.Equal(back, b) {
					t.Fatalf("%s: what cannot be parsed became %q", c.method, back)
				}
				continue
			}
			if err := proto.Unmarshal(back, after); err != nil {
				t.Fatalf("%s: %v", c.method, err)
			}
			// What must come back: the host's, and else what v1alpha1 means by false.
			for _, o := range optionsIn(before) {
				for _, mode := range []struct {
					is        *runtimeapi.NamespaceMode
					otherwise runtimeapi.NamespaceMode
				}{{&o.Network, 0}, {&o.Pid, 1}, {&o.Ipc, 0}} {
					if *mode.is != runtimeapi.NamespaceMode_NODE {
						*mode.is = mode.otherwise
					}
				}
			}
			if !proto.Equal(before, after) {
				t.Fatalf("%s: %v came back as %v", c.method, before, after)
			}
		}
	})
}

// optionsIn are the options in a carrier.
func optionsIn(m proto.Message) (list []*runtimeapi.NamespaceOption) {
	add := func(o *runtimeapi.NamespaceOption) {
		if o != nil {
			list = append(list, o)
		}
	}
	switch m := m.(type) {
	case *runtimeapi.RunPodSandboxRequest:
		add(m.GetConfig().GetLinux().GetSecurityContext().GetNamespaceOptions())
	case *runtimeapi.CreateContainerRequest:
		add(m.GetSandboxConfig().GetLinux().GetSecurityContext().GetNamespaceOptions())
		add(m.GetConfig().GetLinux().GetSecurityContext().GetNamespaceOptions())
	case *runtimeapi.PodSandboxStatusResponse:
		add(m.GetStatus().GetLinux().GetNamespaces().GetOptions())
	}
	return list
}
