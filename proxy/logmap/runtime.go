package logmap

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/cri-logproxy/cri-logproxy/converter/statefile"
	"github.com/cri-logproxy/cri-logproxy/proxy/api"
)

// Runtime is a runtime that has told its name.
type Runtime struct {
	Name    string  `json:"name"`
	Version string  `json:"version"`
	APIs    api.Set `json:"apis"` // versions of CRI that it serves
}

func (m *Map) runtimeFile() string { return filepath.Join(m.dir, "runtime"+statefile.Suffix) }

// readRuntime is for Open.
func (m *Map) readRuntime() (damaged []error) {
	if err := statefile.Clean(m.dir); err != nil {
		damaged = append(damaged, err)
	}
	var r Runtime
	switch err := statefile.Read(m.runtimeFile(), version, &r); {
	case err == nil:
		m.runtime = r
	case !errors.Is(err, fs.ErrNotExist):
		damaged = append(damaged, err)
	}
	return damaged
}

// Runtime returns the last runtime that has told its name. It has none if that
// is not known.
func (m *Map) Runtime() Runtime {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.runtime
}

// PutRuntime records r in place of the runtime before.
func (m *Map) PutRuntime(r Runtime) error {
	m.mu.Lock()
	if m.runtime == r {
		m.mu.Unlock()
		return nil
	}
	m.runtime = r
	written := m.writer.enqueue(m.runtimeFile(), r)
	m.mu.Unlock()
	if err := await(written); err != nil {
		return fmt.Errorf("record runtime %s: %w", r.Name, err)
	}
	return nil
}
