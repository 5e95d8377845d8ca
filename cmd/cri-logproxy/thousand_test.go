package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-logproxy/cri-logproxy/proxy/proxytest"
)

// thousand VMs are more than a node has.
const thousand = 1000

// TestThousand follows a thousand VMs, stops by SIGTERM with output still to
// convert, which must exit with 0, and starts again with all of them on record. It
// tells how long that takes, and does not judge: two idle cores stop within two
// seconds and follow all again within half a second, of a machine that others use
// nothing can be said.
func TestThousand(t *testing.T) {
	dir := newDir(t)
	backend := newBackend(t, dir)
	var mu sync.Mutex
	var list []*runtimeapi.Container
	backend.Handle("CreateContainer", proxytest.Typed(func(_ context.Context, req *runtimeapi.CreateContainerRequest) (*runtimeapi.CreateContainerResponse, error) {
		mu.Lock()
		defer mu.Unlock()
		id := "of-" + req.PodSandboxId
		list = append(list, &runtimeapi.Container{Id: id, PodSandboxId: req.PodSandboxId, State: runtimeapi.ContainerState_CONTAINER_RUNNING})
		return &runtimeapi.CreateContainerResponse{ContainerId: id}, nil
	}))
	backend.Handle("StartContainer", proxytest.Typed(func(context.Context, *runtimeapi.StartContainerRequest) (*runtimeapi.StartContainerResponse, error) {
		return &runtimeapi.StartContainerResponse{}, nil
	}))
	backend.Handle("ListContainers", proxytest.Typed(func(context.Context, *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
		mu.Lock()
		defer mu.Unlock()
		return &runtimeapi.ListContainersResponse{Containers: list}, nil
	}))
	backend.Handle("ListPodSandbox", proxytest.Typed(func(context.Context, *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
		return &runtimeapi.ListPodSandboxResponse{}, nil
	}))
	run := func() *daemon {
		return start(t, command(t, flags(dir, "--vm-log-location="+dir+"/vms")...), dir)
	}
	vms := newVMs(t, dir)

	d := run()
	conn, err := proxytest.Dial(dir + "/proxy.sock")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := runtimeapi.NewRuntimeServiceClient(conn)
	var creating sync.WaitGroup
	for some := range slices.Chunk(vms, thousand/4) {
		creating.Go(func() {
			for _, vm := range some {
				if err := vm.create(t.Context(), client); err != nil {
					t.Errorf("%s: %v", vm.uid, err)
				}
			}
		})
	}
	if creating.Wait(); t.Failed() {
		t.FailNow()
	}
	var want string
	for round := range 3 {
		line := fmt.Sprintf("line %d\n", round)
		want += line
		for _, vm := range vms {
			vm.write(t, line)
		}
		if round == 0 {
			awaitLogs(t, vms, want)
			continue // the next line is on its way when SIGTERM comes
		}
		began := time.Now()
		if err := d.stop(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		stopped := time.Since(began)
		began = time.Now()
		d = run()
		serves := time.Since(began)
		awaitLogs(t, vms, want)
		t.Logf("with %d VMs: stopped in %v, serves after %v, all logs are complete after %v", thousand, stopped, serves, time.Since(began))
	}
	if err := d.stop(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
}

// recordedVM is a VM of which the proxy has a record.
type recordedVM struct{ uid, raw, logDir string }

func newVMs(t *testing.T, dir string) []recordedVM {
	t.Helper()
	vms := make([]recordedVM, thousand)
	for i := range vms {
		uid := fmt.Sprintf("uid-%04d", i)
		vms[i] = recordedVM{uid: uid, raw: dir + "/vms/" + uid + "/_0.log", logDir: dir + "/pods/ns_pod_" + uid}
		for _, d := range []string{filepath.Dir(vms[i].raw), vms[i].logDir + "/vm"} {
			if err := os.MkdirAll(d, 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	return vms
}

func (v recordedVM) create(ctx context.Context, client runtimeapi.RuntimeServiceClient) error {
	resp, err := client.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{
		PodSandboxId:  v.uid,
		Config:        &runtimeapi.ContainerConfig{Metadata: &runtimeapi.ContainerMetadata{Name: "vm"}, LogPath: "vm/0.log"},
		SandboxConfig: &runtimeapi.PodSandboxConfig{Metadata: &runtimeapi.PodSandboxMetadata{Uid: v.uid, Name: "pod", Namespace: "ns"}, LogDirectory: v.logDir},
	})
	if err != nil {
		return err
	}
	_, err = client.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: resp.ContainerId})
	return err
}

func (v recordedVM) write(t *testing.T, line string) {
	t.Helper()
	f, err := os.OpenFile(v.raw, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(line); err != nil {
		t.Fatal(err)
	}
}

// awaitLogs waits until the logs of all VMs say what they have written.
func awaitLogs(t *testing.T, vms []recordedVM, want string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	for _, vm := range vms {
		for {
			b, err := os.ReadFile(vm.logDir + "/vm/0.log")
			var got []byte
			for line := range bytes.Lines(b) {
				_, line, _ = bytes.Cut(line, []byte(" F "))
				got = append(got, line...)
			}
			if err == nil && string(got) == want {
				break
			}
			select {
			case <-ctx.Done():
				t.Fatalf("%s: %v, the log has %q, want %q", vm.uid, err, got, want)
			case <-time.After(time.Millisecond):
			}
		}
	}
}
