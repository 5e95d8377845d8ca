package vmruntime

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"time"

	"github.com/google/uuid"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-logproxy/cri-logproxy/e2e/guest"
)

// containerNamespace makes container IDs from sandbox IDs.
var containerNamespace = uuid.MustParse("5f0c1d0b-5a3e-4b7c-9a51-2f7d6c1e8a44")

// diskSize is the size of a root disk, which nobody ever reads.
const diskSize = 1 << 20

// The labels that the runtime itself puts on every container.
const (
	labelPodName       = "io.kubernetes.pod.name"
	labelPodNamespace  = "io.kubernetes.pod.namespace"
	labelPodUID        = "io.kubernetes.pod.uid"
	labelContainerName = "io.kubernetes.container.name"
)

// ContainerID returns the ID of the container in a sandbox: it is fixed.
func ContainerID(sandboxID string) string {
	return uuid.NewSHA1(containerNamespace, []byte(sandboxID)).String()
}

// DomainName returns the name of a container's libvirt domain.
func DomainName(containerID, containerName string) string {
	return fmt.Sprintf("virtlet-%.13s-%s", containerID, containerName)
}

// RawLog returns where the raw log of an attempt is below a log location.
func RawLog(location, sandboxID string, attempt uint32) string {
	return filepath.Join(location, sandboxID, fmt.Sprintf("_%d.log", attempt))
}

// CreateContainer defines the sandbox's domain. The raw log has nothing to do
// with config.log_path and sandbox_config.log_directory.
func (s *runtimeService) CreateContainer(ctx context.Context, req *cri.CreateContainerRequest) (*cri.CreateContainerResponse, error) {
	unlock, err := s.store.lock(ctx, req.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	defer unlock()
	sb, ok := s.store.sandbox(req.GetPodSandboxId())
	if !ok {
		return nil, noSandbox(req.GetPodSandboxId())
	}
	if sb.Container != nil {
		if s.era.keepDomain {
			// The domain's disks would be brought up to date here.
			if _, _, err := s.libv.find(sb.Container.ID); err != nil {
				return nil, fmt.Errorf("error updating disk images: failed to look up domain %q: %w", sb.Container.ID, err)
			}
			return &cri.CreateContainerResponse{ContainerId: sb.Container.ID}, nil
		}
		if err := s.removeDomain(sb.Container.ID); err != nil {
			return nil, err
		}
	}
	id := ContainerID(sb.ID)
	sb.Container = &container{
		ID:        id,
		Domain:    DomainName(id, req.GetConfig().GetMetadata().GetName()),
		Config:    stored[*cri.ContainerConfig]{req.GetConfig()},
		LogDir:    req.GetSandboxConfig().GetLogDirectory(),
		CreatedAt: time.Now().UnixNano(),
	}
	if err := s.defineDomain(sb); err != nil {
		return nil, err
	}
	if err := s.store.put(sb); err != nil {
		return nil, errors.Join(err, s.removeDomain(id))
	}
	return &cri.CreateContainerResponse{ContainerId: id}, nil
}

// defineDomain makes the domain of a sandbox's container, and what must be
// there before it can start: the raw log's directory, the root disk.
func (r *Runtime) defineDomain(sb sandbox) error {
	d := domain{
		Name:    sb.Container.Domain,
		UUID:    sb.Container.ID,
		Guest:   r.o.Guest,
		Cmdline: guest.Cmdline(sb.Container.Config.M.GetArgs()),
	}
	if !r.o.pty() {
		d.RawLog = RawLog(r.o.LogLocation, sb.ID, sb.Container.Config.M.GetMetadata().GetAttempt())
		// Virtlet's mode: without an x bit only root can enter.
		err := os.Mkdir(filepath.Join(r.o.LogDir, sb.ID), 0o644)
		if err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	if r.era.disk {
		d.Disk = r.disk(d.UUID)
		if err := os.WriteFile(d.Disk, make([]byte, diskSize), 0o600); err != nil {
			return err
		}
	}
	return r.libv.define(d)
}

// removeDomain takes a container's domain away, and its root disk.
func (r *Runtime) removeDomain(id string) error {
	return errors.Join(r.libv.remove(id), r.removeDisk(id))
}

func (r *Runtime) removeDisk(id string) error {
	if err := os.Remove(r.disk(id)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func (r *Runtime) disk(id string) string {
	return filepath.Join(r.o.StateDir, "disk-"+id+".img")
}

// StartContainer starts the domain. libvirt creates the raw log, or truncates
// it if it is there, also when the start then fails.
func (s *runtimeService) StartContainer(ctx context.Context, req *cri.StartContainerRequest) (*cri.StartContainerResponse, error) {
	sb, unlock, err := s.lockContainer(ctx, req.GetContainerId())
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := s.libv.start(sb.Container.ID); err != nil {
		return nil, err
	}
	started := *sb.Container
	started.StartedAt = time.Now().UnixNano()
	sb.Container = &started
	if err := s.store.put(sb); err != nil {
		return nil, err
	}
	return &cri.StartContainerResponse{}, nil
}

// StopContainer shuts the guest down, or destroys it when the timeout is over.
func (s *runtimeService) StopContainer(ctx context.Context, req *cri.StopContainerRequest) (*cri.StopContainerResponse, error) {
	sb, unlock, err := s.lockContainer(ctx, req.GetContainerId())
	if err != nil {
		return nil, err
	}
	defer unlock()
	err = s.libv.stop(ctx, sb.Container.ID, time.Duration(req.GetTimeout())*time.Second)
	if err == nil && s.era.disk {
		err = s.removeDisk(sb.Container.ID)
	}
	if err != nil {
		return nil, err
	}
	return &cri.StopContainerResponse{}, nil
}

// RemoveContainer takes the domain away and leaves the raw logs. A container
// that is not there is no error.
func (s *runtimeService) RemoveContainer(ctx context.Context, req *cri.RemoveContainerRequest) (*cri.RemoveContainerResponse, error) {
	sb, unlock, err := s.lockContainer(ctx, req.GetContainerId())
	if errors.Is(err, errNoDomain) {
		return &cri.RemoveContainerResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := s.removeDomain(sb.Container.ID); err != nil {
		return nil, err
	}
	sb.Container = nil
	if err := s.store.put(sb); err != nil {
		return nil, err
	}
	return &cri.RemoveContainerResponse{}, nil
}

// lockContainer finds a container by its ID and locks its sandbox.
func (r *Runtime) lockContainer(ctx context.Context, id string) (sandbox, func(), error) {
	sb, ok := r.store.byContainer(id)
	if !ok {
		return sandbox{}, nil, errNoDomain
	}
	unlock, err := r.store.lock(ctx, sb.ID)
	if err != nil {
		return sandbox{}, nil, err
	}
	sb, ok = r.store.byContainer(id) // as it is now that nobody else changes it
	if !ok {
		unlock()
		return sandbox{}, nil, errNoDomain
	}
	return sb, unlock, nil
}

// ContainerStatus has no time of ending, no exit code and no reason.
func (s *runtimeService) ContainerStatus(_ context.Context, req *cri.ContainerStatusRequest) (*cri.ContainerStatusResponse, error) {
	sb, ok := s.store.byContainer(req.GetContainerId())
	if !ok {
		return nil, errNoDomain
	}
	state, err := s.libv.state(sb.Container.ID, sb.Container.StartedAt != 0)
	if err != nil {
		return nil, err
	}
	config := sb.Container.Config.M
	return &cri.ContainerStatusResponse{Status: &cri.ContainerStatus{
		Id:          sb.Container.ID,
		Metadata:    config.GetMetadata(),
		State:       state,
		CreatedAt:   sb.Container.CreatedAt,
		StartedAt:   sb.Container.StartedAt,
		Image:       config.GetImage(),
		ImageRef:    imageID(config.GetImage().GetImage()),
		Labels:      sb.containerLabels(),
		Annotations: config.GetAnnotations(),
		LogPath:     s.era.logPath(sb.Container.LogDir, config.GetLogPath()),
	}}, nil
}

func (s *runtimeService) ListContainers(_ context.Context, req *cri.ListContainersRequest) (*cri.ListContainersResponse, error) {
	filter := req.GetFilter()
	var items []*cri.Container
	for _, sb := range s.store.all() {
		c := sb.Container
		if c == nil ||
			filter.GetId() != "" && filter.GetId() != c.ID ||
			filter.GetPodSandboxId() != "" && filter.GetPodSandboxId() != sb.ID ||
			!matches(filter.GetLabelSelector(), sb.containerLabels()) {
			continue
		}
		state, err := s.libv.state(c.ID, c.StartedAt != 0)
		if errors.Is(err, errNoDomain) {
			continue // somebody undefined it, or removes it just now
		}
		if err != nil {
			return nil, err
		}
		if filter.GetState() != nil && filter.GetState().GetState() != state {
			continue
		}
		items = append(items, &cri.Container{
			Id:           c.ID,
			PodSandboxId: sb.ID,
			Metadata:     c.Config.M.GetMetadata(),
			Image:        c.Config.M.GetImage(),
			ImageRef:     imageID(c.Config.M.GetImage().GetImage()),
			State:        state,
			CreatedAt:    c.CreatedAt,
			Labels:       sb.containerLabels(),
			Annotations:  c.Config.M.GetAnnotations(),
		})
	}
	return &cri.ListContainersResponse{Containers: items}, nil
}

// containerLabels returns the labels of the request and Kubernetes' own, which
// the runtime adds where the request has none.
func (sb sandbox) containerLabels() map[string]string {
	pod, config := sb.Config.M.GetMetadata(), sb.Container.Config.M
	labels := map[string]string{
		labelPodName:       pod.GetName(),
		labelPodNamespace:  pod.GetNamespace(),
		labelPodUID:        pod.GetUid(),
		labelContainerName: config.GetMetadata().GetName(),
	}
	maps.Copy(labels, config.GetLabels())
	return labels
}
