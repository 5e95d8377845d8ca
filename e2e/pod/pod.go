// Package pod runs a VM pod as kubelet does, with kubelet's own client of CRI
// and kubelet's own reader of logs (k8s.io/cri-client).
package pod

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/google/uuid"
	internalapi "k8s.io/cri-api/pkg/apis"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	remote "k8s.io/cri-client/pkg"
	"k8s.io/cri-client/pkg/logs"
)

// requestTimeout is kubelet's runtimeRequestTimeout.
const requestTimeout = 2 * time.Minute

// ContainerName is the name of a pod's only container.
const ContainerName = "vm"

// Pod is a pod with one VM. Its methods are called by one goroutine, but Follow
// and Logs by any.
type Pod struct {
	Name    string
	CRI     internalapi.RuntimeService
	Config  *cri.PodSandboxConfig
	Sandbox string // its ID, once it is run
	ID      string // of the container, once it is created
	Attempt uint32 // of the container
}

// New makes a pod that is not run yet, for a node whose CRI is at socket and
// whose podLogsDir is podLogs. The caller closes pod.CRI.
func New(ctx context.Context, socket, podLogs, name string) (*Pod, error) {
	client, err := remote.NewRemoteRuntimeServiceBuilder().
		WithEndpoint("unix://" + socket).WithConnectionTimeout(requestTimeout).Build(ctx)
	if err != nil {
		return nil, err
	}
	const namespace = "default"
	uid := uuid.NewString()
	return &Pod{Name: name, CRI: client, Config: &cri.PodSandboxConfig{
		Metadata: &cri.PodSandboxMetadata{Namespace: namespace, Name: name, Uid: uid},
		Labels: map[string]string{
			"io.kubernetes.pod.namespace": namespace, "io.kubernetes.pod.name": name, "io.kubernetes.pod.uid": uid,
		},
		Annotations:  map[string]string{"kubernetes.io/target-runtime": "virtlet.cloud"},
		LogDirectory: filepath.Join(podLogs, namespace+"_"+name+"_"+uid),
		Linux:        &cri.LinuxPodSandboxConfig{},
	}}, nil
}

// Run runs the sandbox.
func (p *Pod) Run(ctx context.Context) (err error) {
	if err := os.MkdirAll(p.Config.LogDirectory, 0o755); err != nil {
		return err
	}
	p.Sandbox, err = p.CRI.RunPodSandbox(ctx, p.Config, "")
	return err
}

// Create makes the container, for its given attempt.
func (p *Pod) Create(ctx context.Context, attempt uint32, args []string) (err error) {
	p.Attempt = attempt
	logPath := filepath.Join(ContainerName, strconv.FormatUint(uint64(attempt), 10)+".log")
	if err := os.MkdirAll(filepath.Join(p.Config.LogDirectory, ContainerName), 0o755); err != nil {
		return err
	}
	labels := map[string]string{"io.kubernetes.container.name": ContainerName}
	for k, v := range p.Config.Labels {
		labels[k] = v
	}
	p.ID, err = p.CRI.CreateContainer(ctx, p.Sandbox, &cri.ContainerConfig{
		Metadata:    &cri.ContainerMetadata{Name: ContainerName, Attempt: attempt},
		Image:       &cri.ImageSpec{Image: "guest"},
		Args:        args,
		Labels:      labels,
		Annotations: map[string]string{"io.kubernetes.container.restartCount": strconv.FormatUint(uint64(attempt), 10)},
		LogPath:     logPath,
		Linux:       &cri.LinuxContainerConfig{},
	}, p.Config)
	return err
}

// Start starts the VM. The container's log must be there then, or kubelet makes
// no link to it.
func (p *Pod) Start(ctx context.Context) error {
	if err := p.CRI.StartContainer(ctx, p.ID); err != nil {
		return err
	}
	path, err := p.LogPath(ctx)
	if err != nil {
		return err
	}
	if _, err := os.Stat(path); err != nil {
		return fmt.Errorf("after StartContainer: %w", err)
	}
	return nil
}

// Stop stops the VM, within grace.
func (p *Pod) Stop(ctx context.Context, grace time.Duration) error {
	return p.CRI.StopContainer(ctx, p.ID, int64(grace.Seconds()))
}

// State returns the container's state.
func (p *Pod) State(ctx context.Context) (cri.ContainerState, error) {
	st, err := p.CRI.ContainerStatus(ctx, p.ID, false)
	return st.GetStatus().GetState(), err
}

// LogPath returns where kubelet looks for the container's log: it believes the
// runtime.
func (p *Pod) LogPath(ctx context.Context) (string, error) {
	st, err := p.CRI.ContainerStatus(ctx, p.ID, false)
	if err != nil {
		return "", err
	}
	return st.GetStatus().GetLogPath(), nil
}

// Logs writes the container's log to out and errOut, as `kubectl logs` does; of
// a running VM with follow until it has ended, or ctx ends.
func (p *Pod) Logs(ctx context.Context, follow bool, out, errOut io.Writer) error {
	path, err := p.LogPath(ctx)
	if err != nil {
		return err
	}
	return logs.ReadLogs(ctx, path, p.ID, &logs.LogOptions{Follow: follow}, p.CRI, out, errOut)
}

// Rotate rotates the container's log as kubelet does
// (pkg/kubelet/logs/container_log_manager.go, rotateLatestLog), and returns the
// name of the rotated file.
func (p *Pod) Rotate(ctx context.Context, now time.Time) (string, error) {
	path, err := p.LogPath(ctx)
	if err != nil {
		return "", err
	}
	rotated := path + "." + now.Format("20060102-150405")
	if err := os.Rename(path, rotated); err != nil {
		return "", err
	}
	if err := p.CRI.ReopenContainerLog(ctx, p.ID); err != nil {
		return "", errors.Join(fmt.Errorf("reopen: %w", err), os.Rename(rotated, path))
	}
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("after ReopenContainerLog: %w", err)
	}
	return rotated, nil
}

// Remove removes container and sandbox, in kubelet's order: the logs first.
func (p *Pod) Remove(ctx context.Context) error {
	if p.ID != "" {
		path, err := p.LogPath(ctx)
		if err != nil {
			return err
		}
		matches, err := filepath.Glob(path + "*")
		if err != nil {
			return err
		}
		for _, m := range matches {
			if err := os.Remove(m); err != nil {
				return err
			}
		}
		if err := p.CRI.RemoveContainer(ctx, p.ID); err != nil {
			return err
		}
		p.ID = ""
	}
	if p.Sandbox != "" {
		if err := errors.Join(p.CRI.StopPodSandbox(ctx, p.Sandbox), p.CRI.RemovePodSandbox(ctx, p.Sandbox)); err != nil {
			return err
		}
		p.Sandbox = ""
	}
	return os.RemoveAll(p.Config.LogDirectory)
}
