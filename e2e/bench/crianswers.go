package main

import (
	"context"
	"fmt"
	"path/filepath"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	// listed is how many containers the runtime has.
	listed = 500
	// streamedAtOnce is how many of them are in a message of a stream, and
	// streamed in how many messages they come.
	streamedAtOnce, streamed = 50, 200
	// rawLogs is the directory of the raw logs as the runtime sees it.
	rawLogs = "/var/log/vms"
	// statusID is the container that was made through the proxy.
	statusID = "0b2f7a4c-7d25-5a63-9f0c-1f4f9e1b6a55"
)

// criAnswers is a runtime with a node's answers.
type criAnswers struct {
	runtimeapi.UnimplementedRuntimeServiceServer
	list *runtimeapi.ListContainersResponse
	part *runtimeapi.StreamContainersResponse
}

func (*criAnswers) Version(context.Context, *runtimeapi.VersionRequest) (*runtimeapi.VersionResponse, error) {
	return &runtimeapi.VersionResponse{Version: "0.1.0", RuntimeName: "virtlet", RuntimeVersion: "1.5.1", RuntimeApiVersion: "v1"}, nil
}

func (*criAnswers) ListPodSandbox(context.Context, *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
	return &runtimeapi.ListPodSandboxResponse{}, nil
}

// ListContainers lists nothing to the proxy, which would look for raw logs.
func (a *criAnswers) ListContainers(_ context.Context, r *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
	if r.Filter == nil {
		return &runtimeapi.ListContainersResponse{}, nil
	}
	return a.list, nil
}

func (a *criAnswers) StreamContainers(_ *runtimeapi.StreamContainersRequest, s grpc.ServerStreamingServer[runtimeapi.StreamContainersResponse]) error {
	for range streamed {
		if err := s.Send(a.part); err != nil {
			return err
		}
	}
	return nil
}

func (*criAnswers) CreateContainer(context.Context, *runtimeapi.CreateContainerRequest) (*runtimeapi.CreateContainerResponse, error) {
	return &runtimeapi.CreateContainerResponse{ContainerId: statusID}, nil
}

func (*criAnswers) ContainerStatus(_ context.Context, r *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
	c := criContainer(0)
	status := &runtimeapi.ContainerStatus{
		Id: r.ContainerId, Metadata: c.Metadata, State: c.State, CreatedAt: c.CreatedAt, StartedAt: c.CreatedAt + 1e9,
		Image: c.Image, ImageRef: c.ImageRef, Labels: c.Labels, Annotations: c.Annotations,
		LogPath: filepath.Join(rawLogs, c.PodSandboxId, "_0.log"),
	}
	for i := range 5 {
		status.Mounts = append(status.Mounts, &runtimeapi.Mount{
			ContainerPath: fmt.Sprintf("/var/run/secrets/volume-%d", i),
			HostPath:      fmt.Sprintf("/var/lib/kubelet/pods/5bd4e3c0-9d9c-4b0e-8a11-0d6a3fe29a10/volumes/volume-%d", i),
			Readonly:      true,
		})
	}
	return &runtimeapi.ContainerStatusResponse{Status: status}, nil
}

func criContainers(n int) []*runtimeapi.Container {
	var all []*runtimeapi.Container
	for i := range n {
		all = append(all, criContainer(i))
	}
	return all
}

// criContainer is a container as kubelet has it made.
func criContainer(i int) *runtimeapi.Container {
	pod := fmt.Sprintf("5bd4e3c0-9d9c-4b0e-8a11-%012d", i)
	return &runtimeapi.Container{
		Id:           fmt.Sprintf("87a6f0c1-5b1c-5f0f-9d6e-%012d", i),
		PodSandboxId: pod,
		Metadata:     &runtimeapi.ContainerMetadata{Name: "vm"},
		Image:        &runtimeapi.ImageSpec{Image: "virtlet.cloud/cloud-images.ubuntu.com/jammy/current/jammy-server-cloudimg-amd64.img"},
		ImageRef:     "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
		State:        runtimeapi.ContainerState_CONTAINER_RUNNING,
		CreatedAt:    1_790_000_000_000_000_000,
		Labels: map[string]string{
			"io.kubernetes.container.name": "vm",
			"io.kubernetes.pod.name":       fmt.Sprintf("vm-%d", i),
			"io.kubernetes.pod.namespace":  "default",
			"io.kubernetes.pod.uid":        pod,
		},
		Annotations: map[string]string{
			"io.kubernetes.container.hash":                     "c5d9c2a1",
			"io.kubernetes.container.restartCount":             "0",
			"io.kubernetes.container.terminationMessagePath":   "/dev/termination-log",
			"io.kubernetes.container.terminationMessagePolicy": "File",
			"io.kubernetes.pod.terminationGracePeriod":         "30",
		},
	}
}
