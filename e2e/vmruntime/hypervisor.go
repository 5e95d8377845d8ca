package vmruntime

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/digitalocean/go-libvirt"
	"github.com/digitalocean/go-libvirt/socket/dialers"
	"github.com/google/uuid"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-logproxy/cri-logproxy/e2e/await"
)

// errNoDomain is all that Virtlet says about a container it does not know.
var errNoDomain = errors.New("domain not found")

// errNotRunning is libvirt's complaint as it shows through Virtlet.
var errNotRunning = errors.New("virError(Code=55, Domain=10, Message='Requested operation is not valid: domain is not running')")

// hypervisor talks to libvirtd about domains, by their UUIDs. It connects
// anew when libvirtd was restarted.
type hypervisor struct {
	socket string

	mu   sync.Mutex
	conn *libvirt.Libvirt
}

func (h *hypervisor) client() (*libvirt.Libvirt, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.conn != nil && h.conn.IsConnected() {
		return h.conn, nil
	}
	l := libvirt.NewWithDialer(dialers.NewLocal(dialers.WithSocket(h.socket), dialers.WithLocalTimeout(5*time.Second)))
	if err := l.Connect(); err != nil {
		return nil, fmt.Errorf("connect to libvirtd at %s: %w", h.socket, err)
	}
	h.conn = l
	return l, nil
}

func (h *hypervisor) close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.conn == nil || !h.conn.IsConnected() {
		return nil
	}
	return h.conn.Disconnect()
}

// define makes a domain, not yet running.
func (h *hypervisor) define(d domain) error {
	doc, err := d.xml()
	if err != nil {
		return err
	}
	l, err := h.client()
	if err != nil {
		return err
	}
	if _, err := l.DomainDefineXML(doc); err != nil {
		return fmt.Errorf("define domain %s: %w", d.Name, err)
	}
	return nil
}

// find returns a domain, or errNoDomain.
func (h *hypervisor) find(id string) (*libvirt.Libvirt, libvirt.Domain, error) {
	l, err := h.client()
	if err != nil {
		return nil, libvirt.Domain{}, err
	}
	parsed, err := uuid.Parse(id)
	if err != nil {
		return nil, libvirt.Domain{}, errNoDomain
	}
	d, err := l.DomainLookupByUUID(libvirt.UUID(parsed))
	return l, d, domainError("look up", id, err)
}

// start starts a domain.
func (h *hypervisor) start(id string) error {
	l, d, err := h.find(id)
	if err != nil {
		return err
	}
	return domainError("start", id, l.DomainCreate(d))
}

// stop asks the guest to shut down and waits for that as long as grace says;
// then it pulls the plug.
func (h *hypervisor) stop(ctx context.Context, id string, grace time.Duration) error {
	l, d, err := h.find(id)
	if err != nil {
		return err
	}
	if grace > 0 {
		if done, err := h.shutdown(ctx, l, d, grace); done || err != nil {
			return domainError("shut down", id, err)
		}
	}
	return domainError("destroy", id, destroy(l, d))
}

// shutdown returns whether the guest went by itself.
func (h *hypervisor) shutdown(ctx context.Context, l *libvirt.Libvirt, d libvirt.Domain, grace time.Duration) (bool, error) {
	active, err := l.DomainIsActive(d)
	if err != nil || active == 0 {
		return err == nil, err
	}
	// A guest that is gone by now is no error, and one that cannot be asked is
	// destroyed.
	_ = l.DomainShutdown(d)
	waiting, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	err = await.Condition(waiting, "the guest's shutdown", func() (bool, error) {
		active, err := l.DomainIsActive(d)
		return active == 0, err
	})
	if ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
		return false, nil
	}
	return err == nil, err
}

// remove destroys and undefines a domain. One that is not there is no error.
func (h *hypervisor) remove(id string) error {
	l, d, err := h.find(id)
	if errors.Is(err, errNoDomain) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := destroy(l, d); err != nil {
		return domainError("destroy", id, err)
	}
	return domainError("undefine", id, l.DomainUndefine(d))
}

// destroy stops a domain at once. One that does not run is no error.
func destroy(l *libvirt.Libvirt, d libvirt.Domain) error {
	err := l.DomainDestroy(d)
	var lerr libvirt.Error
	if errors.As(err, &lerr) && libvirt.ErrorNumber(lerr.Code) == libvirt.ErrOperationInvalid {
		return nil
	}
	return err
}

// state returns what state the container is in whose domain this is; started
// says whether it ever was.
func (h *hypervisor) state(id string, started bool) (cri.ContainerState, error) {
	l, d, err := h.find(id)
	if err != nil {
		return cri.ContainerState_CONTAINER_UNKNOWN, err
	}
	state, _, err := l.DomainGetState(d, 0)
	if err != nil {
		return cri.ContainerState_CONTAINER_UNKNOWN, domainError("get the state of", id, err)
	}
	switch libvirt.DomainState(state) {
	case libvirt.DomainShutoff, libvirt.DomainCrashed, libvirt.DomainPmsuspended:
		if !started {
			return cri.ContainerState_CONTAINER_CREATED, nil
		}
		return cri.ContainerState_CONTAINER_EXITED, nil
	case libvirt.DomainNostate:
		return cri.ContainerState_CONTAINER_UNKNOWN, nil
	default: // running, blocked, paused, shutting down
		return cri.ContainerState_CONTAINER_RUNNING, nil
	}
}

// usage returns the CPU time in nanoseconds and the memory in bytes that a
// running domain uses, else errNotRunning.
func (h *hypervisor) usage(id string) (cpu, memory uint64, err error) {
	l, d, err := h.find(id)
	if err != nil {
		return 0, 0, err
	}
	active, err := l.DomainIsActive(d)
	if err != nil {
		return 0, 0, domainError("look at", id, err)
	}
	if active == 0 {
		return 0, 0, errNotRunning
	}
	_, _, kib, _, cpu, err := l.DomainGetInfo(d)
	return cpu, kib << 10, domainError("get the usage of", id, err)
}

// domainError adds to an error what was tried, and turns libvirt's "no domain"
// into errNoDomain. No error stays none.
func domainError(op, id string, err error) error {
	switch {
	case err == nil:
		return nil
	case libvirt.IsNotFound(err):
		return errNoDomain
	default:
		return fmt.Errorf("%s domain %s: %w", op, id, err)
	}
}
