package logmap

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"

	"github.com/cri-logproxy/cri-logproxy/converter/statefile"
)

// Attempt is an attempt of a container that is over, and whose place the next
// one has taken at the runtime. Only kubelet still knows it.
type Attempt struct {
	ID          string `json:"id"`          // kubelet's
	ContainerID string `json:"containerId"` // the runtime's, which the next attempt has, too
	SandboxID   string `json:"sandboxId"`
	// Status is its last ContainerStatus, encoded.
	Status []byte `json:"status"`
}

func (m *Map) attemptDir() string { return filepath.Join(m.dir, "attempts") }

func (m *Map) attemptFile(id string) string {
	return filepath.Join(m.attemptDir(), statefile.Name(id))
}

// ByKubeletID returns the container whose present attempt kubelet knows by id.
func (m *Map) ByKubeletID(id string) (Container, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if c, ok := m.containers[id]; ok && c.KnownAs() == id {
		return c, true // nearly all are called as the runtime calls them
	}
	for _, c := range m.containers {
		if c.KnownAs() == id {
			return c, true
		}
	}
	return Container{}, false
}

// Steps counts the steps by which attempts have begun: that a container is in
// another one, or was started. Who has seen no step between two looks at a
// record has seen the same attempt twice.
func (m *Map) Steps() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.steps
}

// Attempt returns an attempt that is over.
func (m *Map) Attempt(id string) (Attempt, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a, ok := m.attempts[id]
	return a, ok
}

// Attempts returns all attempts that are over, in the order of their IDs.
func (m *Map) Attempts() []Attempt {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []Attempt
	for _, id := range slices.Sorted(maps.Keys(m.attempts)) {
		list = append(list, m.attempts[id])
	}
	return list
}

// PutAttempt records a under a.ID, in place of what was there.
func (m *Map) PutAttempt(a Attempt) error {
	m.mu.Lock()
	m.attempts[a.ID] = a
	written := m.writer.enqueue(m.attemptFile(a.ID), a)
	m.mu.Unlock()
	if err := await(written); err != nil {
		return fmt.Errorf("record attempt %s: %w", a.ID, err)
	}
	return nil
}

// RemoveAttempt forgets an attempt that is over.
func (m *Map) RemoveAttempt(id string) error {
	m.mu.Lock()
	delete(m.attempts, id)
	written := m.writer.enqueue(m.attemptFile(id), nil)
	m.mu.Unlock()
	if err := await(written); err != nil {
		return fmt.Errorf("forget attempt %s: %w", id, err)
	}
	return nil
}
