// Package logmap records which raw console log of a VM feeds which container
// log of kubelet.
//
// It is a directory with one small file per container and per sandbox, and one
// for the runtime, held in memory as well. The proxy writes it on lifecycle calls
// only; it survives restarts and power cuts, and one damaged file costs one
// container's record, which the proxy rebuilds from what the runtime lists.
package logmap

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/cri-logproxy/cri-logproxy/converter/statefile"
)

// Mode says where a VM's console goes.
type Mode string

const (
	// ModeFile is a console that is written to a raw log, which is converted.
	ModeFile Mode = "file"
	// ModePTY is a console on a pty, for `virsh console`. There is no raw log.
	ModePTY Mode = "pty"
	// ModeBoth is a console on a pty that libvirt logs to a raw log, which is
	// converted.
	ModeBoth Mode = "both"
)

// Sandbox is a pod as RunPodSandbox described it.
type Sandbox struct {
	ID        string `json:"id"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	UID       string `json:"uid"`
	// LogDirectory is the absolute path that kubelet gave.
	LogDirectory string `json:"logDirectory"`
	// Namespaces is the NamespaceOption that was asked for, encoded; nil if not
	// known.
	Namespaces []byte `json:"namespaces,omitempty"`
}

// Container is the present attempt of one container, as CreateContainer
// described it.
type Container struct {
	// ID is the runtime's. A runtime may give the next attempt the same one.
	ID string `json:"id"`
	// KubeletID is what kubelet knows this attempt by; "" for ID.
	KubeletID string `json:"kubeletId,omitempty"`
	SandboxID string `json:"sandboxId"`
	Namespace string `json:"namespace"`
	Pod       string `json:"pod"`
	Name      string `json:"name"`
	Attempt   uint32 `json:"attempt"`
	Mode      Mode   `json:"mode"`
	// RawLogs are the paths, relative to the raw-log directory, that the raw
	// log may have, the likeliest first. Empty in ModePTY.
	RawLogs []string `json:"rawLogs,omitempty"`
	// FirstRawLogs are the names of the attempt that the runtime has made the
	// container for, which may go on in that raw log for good; nil in that attempt.
	FirstRawLogs []string `json:"firstRawLogs,omitempty"`
	// RawAppends says that the raw log keeps its content when the VM starts.
	RawAppends bool `json:"rawAppends,omitempty"`
	// ContainerLog is the absolute path that kubelet reads; "" if it gave none
	// that can be used.
	ContainerLog string `json:"containerLog,omitempty"`
	// Problem says why there is no log; "" if all is well.
	Problem string `json:"problem,omitempty"`
	// ModeAsked says that the pod asks for another mode than the node's default.
	ModeAsked bool `json:"modeAsked,omitempty"`
	// ModeProblem says why the mode is not the one that the pod asks for; "" if
	// it is.
	ModeProblem string `json:"modeProblem,omitempty"`
	// Notice is what the readers of the container log are told at its start; ""
	// if there is nothing to say.
	Notice string `json:"notice,omitempty"`
	// Started says that StartContainer was called for this attempt.
	Started bool `json:"started,omitempty"`
	// Starting says that nobody knows yet how StartContainer has ended: it is
	// under way, or its answer was lost.
	Starting bool `json:"starting,omitempty"`
	// Stopped says that StopContainer was called since, or has left the runtime's
	// container in a state that the next attempt cannot start from.
	Stopped bool `json:"stopped,omitempty"`
	// Removed says that the container was removed from the runtime since: the next
	// attempt gets a new one.
	Removed bool `json:"removed,omitempty"`
	// CreatedAt is when CreateContainer has answered, in Unix nanoseconds; 0 for
	// what the runtime says.
	CreatedAt int64 `json:"createdAt,omitempty"`
	// FinishedAt is when the attempt was first seen to be over, in Unix
	// nanoseconds; 0 if it was not.
	FinishedAt int64 `json:"finishedAt,omitempty"`
	// StartError is why StartContainer failed; "" if it did not.
	StartError string `json:"startError,omitempty"`
	// Annotations are those of CreateContainer; nil for what the runtime says.
	Annotations map[string]string `json:"annotations,omitempty"`
}

// KnownAs is what kubelet knows the present attempt by.
func (c Container) KnownAs() string { return cmp.Or(c.KubeletID, c.ID) }

const version = 1

// Map is the record of a node. Its methods may be called from any goroutine.
// What could not be written to disk is in memory all the same, and written when
// the disk is well again: an error of a Put or Remove says only that a restart
// would not know now.
type Map struct {
	dir    string
	lock   *os.File // nil: it could not be made
	writer *writer

	closing sync.Once

	mu         sync.Mutex
	containers map[string]Container
	sandboxes  map[string]Sandbox
	attempts   map[string]Attempt
	runtime    Runtime
	steps      uint64
}

// InUseError says that another process has the state directory.
type InUseError struct {
	Dir   string
	Owner string // "cri-logproxy (pid 17)"; "another process" if not known
}

func (e *InUseError) Error() string {
	return fmt.Sprintf("state directory %s is in use by %s: stop it, or give this one another --state-dir", e.Dir, e.Owner)
}

// Open locks and reads the state directory dir, making it if need be. damaged
// is what it goes on without: records that could not be read, which have been
// set aside, and a disk that cannot be written. The rest is good. The caller must
// Close the Map.
func Open(dir string) (m *Map, damaged []error, err error) {
	m = &Map{dir: dir}
	var unwritable error // no reason not to serve: kubelet would have no runtime just when it must evict
	for _, d := range []string{m.containerDir(), m.sandboxDir(), m.attemptDir()} {
		err := os.MkdirAll(d, 0o700)
		switch {
		case statefile.IsUnwritable(err):
			unwritable = cmp.Or(unwritable, err)
		case err != nil:
			return nil, nil, fmt.Errorf("make state directory: %w: run as root, or set --state-dir", err)
		}
	}
	m.lock, err = lock(dir)
	switch {
	case statefile.IsUnwritable(err), unwritable != nil && errors.Is(err, os.ErrNotExist):
		unwritable = cmp.Or(unwritable, err)
	case err != nil:
		return nil, nil, errors.Join(err, m.unlock())
	}
	if unwritable != nil {
		damaged = append(damaged, fmt.Errorf("%w: going on from memory; make room, have the disk be writable, or set --state-dir: a restart must ask the runtime for what is not on disk", unwritable))
	}
	for _, d := range []string{m.containerDir(), m.sandboxDir(), m.attemptDir()} {
		if err := statefile.Clean(d); err != nil {
			damaged = append(damaged, err)
		}
	}
	var bad []error
	m.containers, bad, err = readAll(m.containerDir(), statefile.Read, func(c Container) string { return c.ID })
	damaged = append(damaged, bad...)
	if err == nil {
		m.sandboxes, bad, err = readAll(m.sandboxDir(), statefile.Read, func(s Sandbox) string { return s.ID })
		damaged = append(damaged, bad...)
	}
	if err == nil {
		m.attempts, bad, err = readAll(m.attemptDir(), statefile.Read, func(a Attempt) string { return a.ID })
		damaged = append(damaged, bad...)
	}
	if err != nil {
		m.unlock()
		return nil, nil, fmt.Errorf("read state directory: %w", err)
	}
	damaged = append(damaged, m.readRuntime()...)
	m.writer = startWriter()
	return m, damaged, nil
}

// Read reads the containers on record in a state directory that another process
// may have open. It changes nothing there: damaged records are left to the
// owner.
func Read(dir string) ([]Container, error) {
	m := &Map{dir: dir}
	containers, _, err := readAll(m.containerDir(), statefile.Peek, func(c Container) string { return c.ID })
	return slices.Collect(maps.Values(containers)), err
}

func (m *Map) containerDir() string { return filepath.Join(m.dir, "containers") }
func (m *Map) sandboxDir() string   { return filepath.Join(m.dir, "sandboxes") }

// Close gives the state directory free, when all is written. Only the first
// call does something.
func (m *Map) Close() (err error) {
	m.closing.Do(func() { err = errors.Join(m.writer.close(), m.unlock()) })
	return err
}

// lock takes the state directory for this process, and leaves its name there.
// Taking it needs no write: on a disk that is full or read-only there is an error,
// and the lock all the same if its file was there.
func lock(dir string) (*os.File, error) {
	path := filepath.Join(dir, "lock")
	f, openErr := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if errors.Is(openErr, syscall.EROFS) {
		f, _ = os.Open(path)
	}
	if f == nil {
		return nil, fmt.Errorf("lock state directory: %w", openErr)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock state directory: %w", err)
		}
		owner := make([]byte, 256)
		n, _ := f.Read(owner)
		return nil, &InUseError{Dir: dir, Owner: cmp.Or(strings.TrimSpace(string(owner[:n])), "another process")}
	}
	err := openErr
	if err == nil {
		name := fmt.Sprintf("%s (pid %d)\n", filepath.Base(os.Args[0]), os.Getpid())
		err = errors.Join(f.Truncate(0), writeAt(f, name))
	}
	if err != nil {
		err = fmt.Errorf("lock state directory: %w", err)
	}
	return f, err
}

func writeAt(f *os.File, s string) error {
	_, err := f.WriteAt([]byte(s), 0)
	return err
}

func (m *Map) unlock() error {
	if m.lock == nil {
		return nil
	}
	return m.lock.Close()
}

// readAll reads the records of a directory, by their IDs.
func readAll[T any](dir string, read func(path string, version int, v any) error, id func(T) string) (records map[string]T, damaged []error, err error) {
	files, err := statefile.List(dir)
	if err != nil {
		return nil, nil, err
	}
	records = make(map[string]T, len(files))
	for _, path := range files {
		var v T
		switch err := read(path, version, &v); {
		case errors.Is(err, os.ErrNotExist): // removed meanwhile
		case err != nil:
			damaged = append(damaged, err)
		default:
			records[id(v)] = v
		}
	}
	return records, damaged, nil
}

// Container returns what is on record for a container ID.
func (m *Map) Container(id string) (Container, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c, ok := m.containers[id]
	return c, ok
}

// Containers returns all containers on record, in the order of their IDs.
func (m *Map) Containers() []Container {
	return m.list(func(Container) bool { return true })
}

// InSandbox returns the containers of a sandbox, in the order of their IDs.
func (m *Map) InSandbox(id string) []Container {
	return m.list(func(c Container) bool { return c.SandboxID == id })
}

func (m *Map) list(wanted func(Container) bool) []Container {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []Container
	for _, id := range slices.Sorted(maps.Keys(m.containers)) {
		if c := m.containers[id]; wanted(c) {
			list = append(list, c)
		}
	}
	return list
}

// AddContainer records c unless there is a record of its ID, and reports
// whether it did. It does not if stale is true then, which must not call the Map.
func (m *Map) AddContainer(c Container, stale func() bool) (added bool, err error) {
	err = m.changeContainer(c.ID, func(_ Container, known bool) *Container {
		added = !known && !stale()
		if !added {
			return nil
		}
		return &c
	})
	return added, err
}

// PutContainer records c under c.ID, in place of what was there.
func (m *Map) PutContainer(c Container) error {
	return m.changeContainer(c.ID, func(Container, bool) *Container { return &c })
}

// ChangeContainer changes the record of a container, if there is one. change
// must not call the Map.
func (m *Map) ChangeContainer(id string, change func(*Container)) error {
	return m.changeContainer(id, func(c Container, known bool) *Container {
		if !known {
			return nil
		}
		change(&c)
		return &c
	})
}

// changeContainer replaces the record of a container by what change makes of
// it; nil for no change.
func (m *Map) changeContainer(id string, change func(c Container, known bool) *Container) error {
	m.mu.Lock()
	c, known := m.containers[id]
	changed := change(c, known)
	if changed == nil {
		m.mu.Unlock()
		return nil
	}
	if c.KnownAs() != changed.KnownAs() || c.Started != changed.Started || c.Starting != changed.Starting {
		m.steps++
	}
	m.containers[id] = *changed
	written := m.writer.enqueue(m.containerFile(id), *changed)
	m.mu.Unlock()
	if err := await(written); err != nil {
		return fmt.Errorf("record container %s: %w", id, err)
	}
	return nil
}

// RemoveContainer forgets a container.
func (m *Map) RemoveContainer(id string) error {
	m.mu.Lock()
	delete(m.containers, id)
	written := m.writer.enqueue(m.containerFile(id), nil)
	m.mu.Unlock()
	if err := await(written); err != nil {
		return fmt.Errorf("forget container %s: %w", id, err)
	}
	return nil
}

// Sandbox returns what is on record for a sandbox ID.
func (m *Map) Sandbox(id string) (Sandbox, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, ok := m.sandboxes[id]
	return s, ok
}

// Sandboxes returns the IDs of all sandboxes on record.
func (m *Map) Sandboxes() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Sorted(maps.Keys(m.sandboxes))
}

// AddSandbox records s unless there is a record of its ID, or stale is true
// then, which must not call the Map.
func (m *Map) AddSandbox(s Sandbox, stale func() bool) error {
	return m.putSandbox(s, func(known bool) bool { return !known && !stale() })
}

// PutSandbox records s under s.ID, in place of what was there.
func (m *Map) PutSandbox(s Sandbox) error {
	return m.putSandbox(s, func(bool) bool { return true })
}

func (m *Map) putSandbox(s Sandbox, wanted func(known bool) bool) error {
	m.mu.Lock()
	if _, known := m.sandboxes[s.ID]; !wanted(known) {
		m.mu.Unlock()
		return nil
	}
	m.sandboxes[s.ID] = s
	written := m.writer.enqueue(m.sandboxFile(s.ID), s)
	m.mu.Unlock()
	if err := await(written); err != nil {
		return fmt.Errorf("record sandbox %s: %w", s.ID, err)
	}
	return nil
}

// RemoveSandbox forgets a sandbox, not its containers.
func (m *Map) RemoveSandbox(id string) error {
	m.mu.Lock()
	delete(m.sandboxes, id)
	written := m.writer.enqueue(m.sandboxFile(id), nil)
	m.mu.Unlock()
	if err := await(written); err != nil {
		return fmt.Errorf("forget sandbox %s: %w", id, err)
	}
	return nil
}

func (m *Map) containerFile(id string) string {
	return filepath.Join(m.containerDir(), statefile.Name(id))
}

func (m *Map) sandboxFile(id string) string {
	return filepath.Join(m.sandboxDir(), statefile.Name(id))
}
