package proxytest

import (
	"context"
	"errors"
	"os"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestBackendTyped is how a test of the product uses a backend.
func TestBackendTyped(t *testing.T) {
	backend := startBackend(t, BackendOptions{})
	backend.Handle("CreateContainer", Typed(
		func(_ context.Context, r *runtimeapi.CreateContainerRequest) (*runtimeapi.CreateContainerResponse, error) {
			return &runtimeapi.CreateContainerResponse{ContainerId: "in-" + r.GetPodSandboxId()}, nil
		}))
	client := typedClient(t, backend)
	created, err := client.CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{PodSandboxId: "sandbox"})
	if err != nil || created.GetContainerId() != "in-sandbox" {
		t.Errorf("got %v, error %v", created, err)
	}
	backend.Handle("CreateContainer", nil)
	created, err = client.CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{})
	rpc, _ := findRPC("/" + V1 + ".RuntimeService/CreateContainer")
	if err != nil || !proto.Equal(created, DefaultAnswer(rpc, 0)) {
		t.Errorf("by default got %v, error %v", created, err)
	}
	if err := backend.WaitFor(t.Context(), func(calls []Call) bool { return len(calls) == 2 && calls[1].Done }); err != nil {
		t.Error(err)
	}
	if call := backend.Journal()[0]; call.Cancelled || !call.HalfClosed || call.Authority != "localhost" {
		t.Errorf("the journal has %+v", call)
	}
}

func TestBackendLacksAPI(t *testing.T) {
	backend := startBackend(t, BackendOptions{APIs: []string{V1alpha2}})
	_, err := typedClient(t, backend).Version(t.Context(), &runtimeapi.VersionRequest{})
	want := `Unimplemented "unknown service runtime.v1.RuntimeService"`
	if got := showStatus(err); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestBackendStops(t *testing.T) {
	backend := startBackend(t, BackendOptions{})
	backend.Stop()
	backend.Stop()
	if _, err := os.Stat(backend.Socket()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
	_, err := typedClient(t, backend).Version(t.Context(), &runtimeapi.VersionRequest{})
	if status.Code(err) != codes.Unavailable {
		t.Errorf("a stopped backend answers %v", err)
	}
	for range 2 {
		if err := backend.Restart(); err != nil {
			t.Fatal(err)
		}
		if _, err := typedClient(t, backend).Version(t.Context(), &runtimeapi.VersionRequest{}); err != nil {
			t.Error(err)
		}
	}
	backend.Close()
	backend.Close()
	if err := backend.Restart(); err == nil {
		t.Error("a closed backend can be restarted")
	}
}

func TestWaitForGivesUp(t *testing.T) {
	backend := startBackend(t, BackendOptions{})
	ctx, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("enough")
	cancel(reason)
	if err := backend.WaitFor(ctx, func([]Call) bool { return false }); !errors.Is(err, reason) {
		t.Errorf("got %v", err)
	}
}

func startBackend(t *testing.T, opts BackendOptions) *Backend {
	t.Helper()
	backend, err := NewBackend(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(backend.Close)
	return backend
}

func typedClient(t *testing.T, backend *Backend) runtimeapi.RuntimeServiceClient {
	t.Helper()
	conn, err := Dial(backend.Socket())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return runtimeapi.NewRuntimeServiceClient(conn)
}
