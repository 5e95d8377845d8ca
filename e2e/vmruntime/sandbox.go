package vmruntime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// podIP is an address that no network has: it is for documentation (RFC 5737).
const podIP = "192.0.2.1"

// RunPodSandbox takes the pod's UID for the sandbox's ID, so a pod that is run
// again keeps its sandbox, and the container in it.
func (s *runtimeService) RunPodSandbox(ctx context.Context, req *cri.RunPodSandboxRequest) (*cri.RunPodSandboxResponse, error) {
	id := req.GetConfig().GetMetadata().GetUid()
	if id == "" || id != filepath.Base(id) || id[0] == '.' {
		return nil, fmt.Errorf("pod UID %q cannot be a sandbox ID", id)
	}
	unlock, err := s.store.lock(ctx, id)
	if err != nil {
		return nil, err
	}
	defer unlock()
	sb, _ := s.store.sandbox(id)
	sb.ID = id
	sb.Config = stored[*cri.PodSandboxConfig]{req.GetConfig()}
	sb.Ready = true
	sb.CreatedAt = time.Now().UnixNano()
	if err := s.store.put(sb); err != nil {
		return nil, err
	}
	return &cri.RunPodSandboxResponse{PodSandboxId: id}, nil
}

// StopPodSandbox leaves the virtual machine alone: kubelet has stopped it.
func (s *runtimeService) StopPodSandbox(ctx context.Context, req *cri.StopPodSandboxRequest) (*cri.StopPodSandboxResponse, error) {
	unlock, err := s.store.lock(ctx, req.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	defer unlock()
	sb, ok := s.store.sandbox(req.GetPodSandboxId())
	if !ok {
		return nil, fmt.Errorf("sandbox %q not found in Virtlet metadata store", req.GetPodSandboxId())
	}
	sb.Ready = false
	if err := s.store.put(sb); err != nil {
		return nil, err
	}
	return &cri.StopPodSandboxResponse{}, nil
}

// RemovePodSandbox takes the raw logs of all attempts along. With serial ports
// on pseudo-terminals it knows of no logs.
func (s *runtimeService) RemovePodSandbox(ctx context.Context, req *cri.RemovePodSandboxRequest) (*cri.RemovePodSandboxResponse, error) {
	unlock, err := s.store.lock(ctx, req.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	defer unlock()
	sb, ok := s.store.sandbox(req.GetPodSandboxId())
	if !ok {
		return &cri.RemovePodSandboxResponse{}, nil
	}
	if sb.Container != nil {
		err = s.removeDomain(sb.Container.ID)
	}
	if !s.o.pty() {
		err = errors.Join(err, os.RemoveAll(filepath.Join(s.o.LogDir, sb.ID)))
	}
	if err == nil {
		err = s.store.remove(sb.ID)
	}
	if err != nil {
		return nil, err
	}
	return &cri.RemovePodSandboxResponse{}, nil
}

// PodSandboxStatus of 1.0 and later claims a network namespace of the pod's own,
// whatever was asked for.
func (s *runtimeService) PodSandboxStatus(_ context.Context, req *cri.PodSandboxStatusRequest) (*cri.PodSandboxStatusResponse, error) {
	sb, ok := s.store.sandbox(req.GetPodSandboxId())
	if !ok {
		return nil, noSandbox(req.GetPodSandboxId())
	}
	config := sb.Config.M
	namespaces := &cri.NamespaceOption{}
	if s.era.echoNamespaces {
		namespaces = bools(config.GetLinux().GetSecurityContext().GetNamespaceOptions())
	}
	return &cri.PodSandboxStatusResponse{Status: &cri.PodSandboxStatus{
		Id:          sb.ID,
		Metadata:    config.GetMetadata(),
		State:       sb.state(),
		CreatedAt:   sb.CreatedAt,
		Network:     &cri.PodSandboxNetworkStatus{Ip: podIP},
		Linux:       &cri.LinuxPodSandboxStatus{Namespaces: &cri.Namespace{Options: namespaces}},
		Labels:      config.GetLabels(),
		Annotations: config.GetAnnotations(),
	}}, nil
}

// bools returns namespaces as v1alpha1 has them: host_network, host_pid and
// host_ipc are bools in the places of v1's network, pid and ipc. 1 is true on the
// wire, which is CONTAINER to whoever reads it as v1.
func bools(o *cri.NamespaceOption) *cri.NamespaceOption {
	wire := func(mode cri.NamespaceMode) cri.NamespaceMode { return min(mode, 1) }
	return &cri.NamespaceOption{Network: wire(o.GetNetwork()), Pid: wire(o.GetPid()), Ipc: wire(o.GetIpc())}
}

func (s *runtimeService) ListPodSandbox(_ context.Context, req *cri.ListPodSandboxRequest) (*cri.ListPodSandboxResponse, error) {
	filter := req.GetFilter()
	var items []*cri.PodSandbox
	for _, sb := range s.store.all() {
		config := sb.Config.M
		if filter.GetId() != "" && filter.GetId() != sb.ID ||
			filter.GetState() != nil && filter.GetState().GetState() != sb.state() ||
			!matches(filter.GetLabelSelector(), config.GetLabels()) {
			continue
		}
		items = append(items, &cri.PodSandbox{
			Id:          sb.ID,
			Metadata:    config.GetMetadata(),
			State:       sb.state(),
			CreatedAt:   sb.CreatedAt,
			Labels:      config.GetLabels(),
			Annotations: config.GetAnnotations(),
		})
	}
	return &cri.ListPodSandboxResponse{Items: items}, nil
}

func (sb sandbox) state() cri.PodSandboxState {
	if sb.Ready {
		return cri.PodSandboxState_SANDBOX_READY
	}
	return cri.PodSandboxState_SANDBOX_NOTREADY
}

func noSandbox(id string) error {
	return fmt.Errorf("pod sandbox %q does not exist", id)
}

// matches says whether labels have all that a selector wants.
func matches(selector, labels map[string]string) bool {
	for key, want := range selector {
		if got, ok := labels[key]; !ok || got != want {
			return false
		}
	}
	return true
}
