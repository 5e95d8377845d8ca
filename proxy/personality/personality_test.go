package personality

import (
	"errors"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-logproxy/cri-logproxy/proxy/api"
)

func apis(versions ...api.Version) (s api.Set) {
	for _, v := range versions {
		s.Add(v)
	}
	return s
}

func TestChoice(t *testing.T) {
	old := Runtime{Name: "virtlet", APIs: apis(api.V1alpha1)}
	recent := Runtime{Name: "virtlet", APIs: apis(api.V1alpha2)}
	containerd := Runtime{Name: "containerd", APIs: apis(api.V1, api.V1alpha2)}
	const both = "log-path, finished-at, attempts, stopped-disk, stats, image-fs, error-codes, lost-domain"
	const all = "log-path, finished-at, attempts, stopped-disk, namespaces, stats, image-fs, error-codes, lost-domain"
	for _, test := range []struct {
		choice  string
		runtime Runtime
		want    string
	}{
		{"auto", old, both},
		{"auto", recent, all},
		{"auto", containerd, "log-path"},
		{"auto", Runtime{}, "log-path"},
		{"auto", Runtime{Name: "virtlet", APIs: apis(api.V1)}, "log-path"},
		{"virtlet", containerd, all}, // CRIProxy says who its first runtime is
		{"none", recent, "log-path"},
		{"none,-log-path", recent, ""},
		{"auto,-stats,-attempts", old, "log-path, finished-at, stopped-disk, image-fs, error-codes, lost-domain"},
	} {
		c, err := ParseChoice(test.choice)
		if err != nil {
			t.Error(err)
		}
		if got := c.For(test.runtime).String(); got != test.want {
			t.Errorf("%s for %v:\n got %s\nwant %s", test.choice, test.runtime, got, test.want)
		}
	}
	for _, choice := range []string{"", "containerd", "stats", "auto,stats", "auto,-nothing", "auto,", "-stats"} {
		if _, err := ParseChoice(choice); err == nil {
			t.Errorf("%q was taken", choice)
		}
	}
	for _, r := range All {
		if r.Reason == "" || strings.ContainsAny(r.Name, " ,") {
			t.Errorf("%+v", r)
		}
	}
}

const uuid = "0d78e70b-0000-5000-8000-123456789012"

func FuzzSplitAttemptID(f *testing.F) {
	for _, id := range []string{"", "-", "-1", uuid, uuid + "-1", uuid + "-01", uuid + "-0", "a--1", "a-4294967295", "a-4294967296", "a-+1"} {
		f.Add(id, uint32(1))
	}
	f.Fuzz(func(t *testing.T, id string, attempt uint32) {
		if base, n, ok := SplitAttemptID(id); ok && (n == 0 || AttemptID(base, n) != id) {
			t.Errorf("%q is attempt %d of %q", id, n, base)
		}
		if id == "" || attempt == 0 {
			return
		}
		if base, n, ok := SplitAttemptID(AttemptID(id, attempt)); !ok || base != id || n != attempt {
			t.Errorf("attempt %d of %q became %d of %q, %v", attempt, id, n, base, ok)
		}
	})
}

func TestUUIDIsNoAttempt(t *testing.T) {
	if base, n, ok := SplitAttemptID(uuid); ok {
		t.Errorf("%s is attempt %d of %s", uuid, n, base)
	}
}

func TestLastAttempt(t *testing.T) {
	for _, test := range []struct {
		files string
		want  uint32
	}{
		{"", 0},
		{"0.log", 0},
		{"0.log 2.log 1.log", 2},
		{"0.log 7.log.20261126-150405.gz", 7},
		{"x.log 9.txt 8.logs 6 .log -1.log 5.log.", 5},
		{"99999999999.log", 0},
	} {
		if got := LastAttempt(strings.Fields(test.files)); got != test.want {
			t.Errorf("%q: %d, want %d", test.files, got, test.want)
		}
	}
}

func TestCode(t *testing.T) {
	for _, test := range []struct {
		method string
		err    error
		want   codes.Code
	}{
		{"ContainerStatus", nil, codes.OK},
		{"ContainerStatus", status.Error(codes.Unknown, "domain not found"), codes.NotFound},
		{"CreateContainer", status.Error(codes.Unknown, "error updating disk images: failed to look up domain: domain not found"), codes.Unknown},
		{"PodSandboxStatus", status.Error(codes.Unknown, `pod sandbox "x" does not exist`), codes.NotFound},
		{"StopPodSandbox", status.Error(codes.Unknown, "sandbox x not found in Virtlet metadata store"), codes.NotFound},
		{"StopContainer", status.Error(codes.Unknown, "image not found"), codes.Unknown},
		{"ImageFsInfo", status.Error(codes.Unknown, "ImageFsInfo() not implemented"), codes.Unimplemented},
		{"Exec", status.Error(codes.Unknown, "not implemented"), codes.Unimplemented},
		{"Exec", status.Error(codes.Internal, "not implemented"), codes.Internal},
		{"Exec", errors.New("not a status: not implemented"), codes.Unknown},
	} {
		got := Code(test.method, test.err)
		if status.Code(got) != test.want {
			t.Errorf("%s: %v became %v", test.method, test.err, got)
		}
		if test.err != nil && status.Convert(got).Message() != status.Convert(test.err).Message() {
			t.Errorf("%s: the text %v became %v", test.method, test.err, got)
		}
	}
}

func TestIsLostDomain(t *testing.T) {
	if !IsLostDomain(status.Error(codes.Unknown, "error updating disk images: failed to look up domain x: domain not found")) ||
		IsLostDomain(nil) || IsLostDomain(status.Error(codes.Unknown, "no space left")) {
		t.Error("wrong")
	}
}

// TestNamespaces: what the runtime says itself is not overridden.
func TestNamespaces(t *testing.T) {
	asked := &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE}
	st := &runtimeapi.PodSandboxStatus{Linux: &runtimeapi.LinuxPodSandboxStatus{Namespaces: &runtimeapi.Namespace{
		Options: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER},
	}}}
	if AskedNamespaces(st, asked) || AskedNamespaces(nil, asked) || AskedNamespaces(&runtimeapi.PodSandboxStatus{}, nil) {
		t.Error("changed")
	}
	if st.Linux.Namespaces.Options = nil; !AskedNamespaces(st, asked) || st.Linux.Namespaces.Options.Network != asked.Network {
		t.Errorf("%v", st)
	}
}

func TestImageFSInfo(t *testing.T) {
	dir := t.TempDir()
	resp, err := ImageFSInfo(dir + "/not/there")
	if err != nil || resp.ImageFilesystems[0].FsId.Mountpoint != dir {
		t.Errorf("%v, %v, want %s", resp, err, dir)
	}
}
