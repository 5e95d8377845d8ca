package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-logproxy/cri-logproxy/libvirt"
	"github.com/cri-logproxy/cri-logproxy/proxy"
	"github.com/cri-logproxy/cri-logproxy/proxy/logmap"
	"github.com/cri-logproxy/cri-logproxy/proxy/proxytest"
)

// fakeLibvirt has one domain. It stands in where a real libvirt would have to
// fail.
type fakeLibvirt struct {
	serial libvirt.Serial
	err    error
	asked  []string // "console file" of each SetConsole
}

func (f *fakeLibvirt) Serial(context.Context, string) (libvirt.Serial, error) { return f.serial, f.err }

func (f *fakeLibvirt) SetConsole(_ context.Context, _ string, console libvirt.Console, file string) (libvirt.Serial, error) {
	f.asked = append(f.asked, string(console)+" "+file)
	if f.err != nil || f.serial.Active {
		return f.serial, f.err
	}
	switch {
	case console == libvirt.Both:
		f.serial = libvirt.Serial{Type: "pty", Log: file, Appends: true}
	case console == libvirt.PTY:
		f.serial = libvirt.Serial{Type: "pty"}
	case f.serial.Type != "file":
		f.serial = libvirt.Serial{Type: "file", Path: file, Appends: true}
	}
	return f.serial, nil
}

func newRigWithLibvirt(t *testing.T, l proxy.Consoles, configure func(*proxy.Config)) *rig {
	r := newRig(t, nil, configure)
	r.stop()
	r.libvirt = l
	r.start()
	return r
}

func withMode(mode string) func(*runtimeapi.CreateContainerRequest) {
	return func(req *runtimeapi.CreateContainerRequest) {
		req.SandboxConfig.Annotations = map[string]string{proxy.LogModeAnnotation: mode}
	}
}

// TestConsoleOfAStart is what a VM's start makes of its console, by the node's
// default, the pod's annotation and what libvirt has and says.
func TestConsoleOfAStart(t *testing.T) {
	const location = "/var/log/vms"
	virtletFile := libvirt.Serial{Type: "file", Path: location + "/uid-pod/vm_0.log"}
	pty := libvirt.Serial{Type: "pty"}
	for _, test := range []struct {
		name       string
		node       logmap.Mode
		pod        string // annotation
		noLocation bool
		domain     libvirt.Serial
		err        error
		asked      string
		raw        string // the file that is converted; "": none
		notice     string // a part of it
	}{
		{name: "file", node: "file", domain: virtletFile, asked: "file " + location + "/uid-pod/_0.log", raw: "vm_0.log"},
		{name: "file on a pty", node: "file", domain: pty, asked: "file " + location + "/uid-pod/_0.log", raw: "_0.log"},
		{name: "file, no libvirt", node: "file", err: errors.New("no socket"), asked: "file " + location + "/uid-pod/_0.log", raw: "_0.log"},
		{name: "file elsewhere", node: "file", domain: libvirt.Serial{Type: "file", Path: "/other/x.log"}, asked: "file " + location + "/uid-pod/_0.log", raw: "_0.log", notice: "/other/x.log, which is not below --vm-log-location /var/log/vms"},
		{name: "both", node: "both", domain: pty, asked: "both " + location + "/uid-pod/_0.log", raw: "_0.log"},
		{name: "both on a file", node: "both", domain: virtletFile, asked: "both " + location + "/uid-pod/_0.log", raw: "_0.log"},
		{name: "both, no libvirt", node: "both", err: errors.New("no socket"), asked: "both " + location + "/uid-pod/_0.log", raw: "_0.log", notice: "mode both could not be set up: no socket"},
		{name: "both, running", node: "both", domain: libvirt.Serial{Type: "pty", Active: true}, asked: "both " + location + "/uid-pod/_0.log", notice: "libvirt does not log this VM's console"},
		{name: "pod wants both", node: "file", pod: "both", domain: virtletFile, asked: "both " + location + "/uid-pod/_0.log", raw: "_0.log"},
		{name: "pod wants pty", node: "both", pod: "pty", domain: virtletFile, asked: "pty " + location, notice: "this VM's console is a pty"},
		{name: "pod wants nonsense", node: "both", pod: "tty", domain: pty, asked: "both " + location + "/uid-pod/_0.log", raw: "_0.log", notice: `unknown log mode "tty": want file, pty or both; this VM gets the node's default, both`},
		{name: "pod wants both on a node of ptys", node: "pty", pod: "both", noLocation: true, domain: pty, notice: "no --vm-log-location for raw logs; this VM gets the node's default, pty"},
	} {
		t.Run(test.name, func(t *testing.T) {
			fake := &fakeLibvirt{serial: test.domain, err: test.err}
			r := newRigWithLibvirt(t, fake, func(c *proxy.Config) {
				c.LogMode = test.node
				if test.noLocation {
					c.VMLogLocation, c.VMLogDir = "", ""
				}
			})
			oneContainer(r.backend, "c1")
			change := func(*runtimeapi.CreateContainerRequest) {}
			if test.pod != "" {
				change = withMode(test.pod)
			}
			id := r.create("pod", 0, change)
			r.startContainer(id)
			asked := ""
			if len(fake.asked) > 0 {
				asked = fake.asked[0]
			}
			if asked != test.asked || len(fake.asked) > 1 {
				t.Errorf("libvirt was asked %q, want %q", fake.asked, test.asked)
			}
			log := r.podLog("pod", "0.log")
			var want []string
			if test.raw != "" {
				r.writeRaw("uid-pod/"+test.raw, "boot\r\n")
				want = append(want, "boot")
			}
			var got []string
			eventually(t, fmt.Sprintf("log with %q and %q", want, test.notice), func() bool {
				got = contents(t, log)
				if len(got) > 0 && test.notice != "" {
					if !strings.HasPrefix(got[0], "[cri-logproxy] ") || !strings.Contains(got[0], test.notice) {
						t.Fatalf("notice %q, want %q", got[0], test.notice)
					}
					got = got[1:]
				} else if test.notice != "" {
					return false
				}
				return slices.Equal(got, want)
			})
		})
	}
}

// TestStartsWithoutLog has a VM that cannot start because of its log.
func TestStartsWithoutLog(t *testing.T) {
	fake := &fakeLibvirt{serial: libvirt.Serial{Type: "pty"}}
	r := newRigWithLibvirt(t, fake, func(c *proxy.Config) { c.LogMode = logmap.ModeBoth })
	oneContainer(r.backend, "c1")
	id := r.create("pod", 0, nil)
	cause := "Unable to open file: /var/log/vms/uid-pod/_0.log: No such file or directory"
	r.backend.Handle("StartContainer", proxytest.Typed(func(context.Context, *runtimeapi.StartContainerRequest) (*runtimeapi.StartContainerResponse, error) {
		if fake.serial.Log != "" {
			return nil, status.Error(codes.Unknown, cause)
		}
		return &runtimeapi.StartContainerResponse{}, nil
	}))
	r.startContainer(id)
	log := r.podLog("pod", "0.log")
	want := "[cri-logproxy] this VM did not start with a log of its console, and runs without: rpc error: code = Unknown desc = " + cause + "; --vm-log-location must name a directory as libvirtd sees it, and --vm-log-dir the same one as this host does"
	eventually(t, "the notice", func() bool { return slices.Equal(contents(t, log), []string{want}) })

	// Another cause is the runtime's to tell.
	fake.serial = libvirt.Serial{Type: "pty"}
	r.backend.Handle("StartContainer", proxytest.Typed(func(context.Context, *runtimeapi.StartContainerRequest) (*runtimeapi.StartContainerResponse, error) {
		return nil, status.Error(codes.ResourceExhausted, "no memory")
	}))
	id = r.create("pod", 1, nil)
	if _, err := r.client.StartContainer(t.Context(), &runtimeapi.StartContainerRequest{ContainerId: id}); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("start: %v", err)
	}
	if want := filepath.Join("/var/log/vms/uid-pod/_1.log"); fake.serial.Log != want {
		t.Errorf("the domain logs to %q, want %q", fake.serial.Log, want)
	}
}

// TestRawDirectory is the directory that libvirt needs before the VM starts.
func TestRawDirectory(t *testing.T) {
	fake := &fakeLibvirt{serial: libvirt.Serial{Type: "pty"}}
	r := newRigWithLibvirt(t, fake, func(c *proxy.Config) { c.LogMode = logmap.ModeBoth })
	oneContainer(r.backend, "c1")
	r.startContainer(r.create("pod", 0, nil))
	if fi, err := os.Stat(filepath.Join(r.cfg.VMLogDir, "uid-pod")); err != nil || !fi.IsDir() {
		t.Errorf("raw directory: %v", err)
	}
	// Without the root, nothing is logged, and the VM starts.
	if err := os.RemoveAll(r.cfg.VMLogDir); err != nil {
		t.Fatal(err)
	}
	fake.serial = libvirt.Serial{Type: "pty"}
	r.startContainer(r.create("pod", 1, nil))
	log := r.podLog("pod", "1.log")
	eventually(t, "the notice", func() bool {
		got := contents(t, log)
		return len(got) > 0 && strings.Contains(got[0], "mode both could not be set up: make the raw log's directory") && strings.Contains(got[0], "set --vm-log-dir to where this host has what libvirtd sees as /var/log/vms")
	})
	if fake.serial.Log != "" {
		t.Errorf("the domain logs to %q", fake.serial.Log)
	}
}

// TestFoundRunning is a VM that runs already when the proxy first hears of it:
// its domain says what feeds its log.
func TestFoundRunning(t *testing.T) {
	for _, test := range []struct {
		name   string
		node   logmap.Mode
		domain libvirt.Serial
		mode   logmap.Mode
		raw    []string
	}{
		{"both", logmap.ModeFile, libvirt.Serial{Active: true, Type: "pty", Log: "/var/log/vms/uid-pod/_0.log", Appends: true}, logmap.ModeBoth, []string{"uid-pod/_0.log"}},
		{"file", logmap.ModeFile, libvirt.Serial{Active: true, Type: "file", Path: "/var/log/vms/uid-pod/old_3.log"}, logmap.ModeFile, []string{"uid-pod/old_3.log"}},
		{"file on a node of ptys", logmap.ModePTY, libvirt.Serial{Active: true, Type: "file", Path: "/var/log/vms/uid-pod/vm_0.log"}, logmap.ModeFile, []string{"uid-pod/vm_0.log"}},
		{"file elsewhere", logmap.ModePTY, libvirt.Serial{Active: true, Type: "file", Path: "/other/x.log"}, logmap.ModePTY, nil},
		{"both elsewhere", logmap.ModePTY, libvirt.Serial{Active: true, Type: "pty", Log: "/other/x.log"}, logmap.ModePTY, nil},
		{"pty", logmap.ModeFile, libvirt.Serial{Active: true, Type: "pty"}, logmap.ModePTY, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRig(t, nil, nil)
			r.stop()
			r.libvirt = &fakeLibvirt{serial: test.domain}
			r.cfg.LogMode = test.node
			oneContainer(r.backend, "c1")
			r.backend.Handle("ListContainers", proxytest.Typed(func(context.Context, *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
				return &runtimeapi.ListContainersResponse{Containers: []*runtimeapi.Container{{
					Id: "c1", PodSandboxId: "uid-pod", State: runtimeapi.ContainerState_CONTAINER_RUNNING,
					Labels: map[string]string{"io.kubernetes.pod.name": "pod", "io.kubernetes.pod.namespace": "ns", "io.kubernetes.pod.uid": "uid-pod", "io.kubernetes.container.name": "vm"},
				}}}, nil
			}))
			r.start()
			eventually(t, "the record", func() bool {
				c, ok := r.logs.Container("c1")
				return ok && c.Mode == test.mode && slices.Equal(c.RawLogs, test.raw) && c.RawAppends == test.domain.Appends &&
					strings.Contains(c.Notice, "not below --vm-log-location") == strings.HasSuffix(test.name, "elsewhere")
			})
		})
	}
}
