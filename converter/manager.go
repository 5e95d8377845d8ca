package converter

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/golang/glog"

	"github.com/cri-logproxy/cri-logproxy/converter/statefile"
)

// DefaultIdleFlush is how long text without a line end waits for more before
// it is shown as it is: a `login: ` prompt must be seen.
const DefaultIdleFlush = 500 * time.Millisecond

// Config is what all converters of a node have in common.
type Config struct {
	// RawRoot is the directory of the raw logs, as this host sees it.
	RawRoot string
	// LogRoot is kubelet's podLogsDir.
	LogRoot string
	// StateDir is a directory for checkpoints; it is made if need be.
	StateDir string
	// Format of new container logs; CRI by default.
	Format Format
	// MaxLine is the longest content of a record in bytes; DefaultMaxLine if 0.
	MaxLine int
	// IdleFlush is DefaultIdleFlush if 0.
	IdleFlush time.Duration
	// RawRetain is how many converted bytes of a raw log stay on disk, at the
	// least; DefaultRawRetain if 0, all if negative.
	RawRetain int64

	openLog openLogFunc // a test's disk
}

// Manager owns the converters of a node, one per container. Its methods may be
// called from any goroutine.
type Manager struct {
	cfg         Config
	buffers     bufferPools
	watcher     *watcher
	checkpoints checkpoints

	mu      sync.Mutex
	workers map[string]*worker // by container ID
	closed  bool
}

// NewManager makes a Manager without converters. The caller must Close it.
func NewManager(cfg Config) (*Manager, error) {
	if cfg.MaxLine == 0 {
		cfg.MaxLine = DefaultMaxLine
	}
	if cfg.IdleFlush == 0 {
		cfg.IdleFlush = DefaultIdleFlush
	}
	if cfg.RawRetain == 0 {
		cfg.RawRetain = DefaultRawRetain
	}
	if cfg.openLog == nil {
		cfg.openLog = openLog
	}
	dir := filepath.Join(cfg.StateDir, "checkpoints")
	if err := os.MkdirAll(dir, 0o700); err != nil && !statefile.IsUnwritable(err) {
		return nil, fmt.Errorf("make checkpoint directory: %w", err)
	}
	if err := statefile.Clean(dir); err != nil {
		glog.Errorf("clean up %s: %v", dir, err)
	}
	w, err := newWatcher()
	if err != nil {
		glog.Error(err)
	}
	return &Manager{cfg: cfg, watcher: w, checkpoints: checkpoints{dir}, workers: make(map[string]*worker)}, nil
}

// Begin makes the container log of run and converts to it from now on. The log
// exists when Begin returns without error. A Run that was begun before for the
// same container ends first; one with the same log goes on, by what the new one
// says of its raw log.
func (m *Manager) Begin(ctx context.Context, run Run) error {
	return m.begin(ctx, run, true)
}

// Resume goes on with a Run that this process has not begun, where its log
// ends. A log that is gone is not made: kubelet deletes it before it removes
// the container.
func (m *Manager) Resume(ctx context.Context, run Run) error {
	return m.begin(ctx, run, false)
}

func (m *Manager) begin(ctx context.Context, run Run, create bool) error {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return errStopped
	}
	w := m.workers[run.ContainerID]
	if w != nil {
		m.mu.Unlock()
		return w.do(ctx, func() error { return w.begin(ctx, run, create) })
	}
	// Nothing that is asked of a new worker comes before its Run.
	begun := make(chan error, 1)
	m.workers[run.ContainerID] = startWorker(&m.cfg, &m.buffers, m.watcher, m.checkpoints, run.ContainerID, func(w *worker) {
		begun <- w.begin(ctx, run, create)
	})
	m.mu.Unlock()
	select {
	case err := <-begun:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (m *Manager) worker(id string) *worker {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.workers[id]
}

// Drain returns when everything that the container's raw log holds is in its
// log, an unfinished line included; at once if nothing is converted for it.
func (m *Manager) Drain(ctx context.Context, id string) error {
	w := m.worker(id)
	if w == nil {
		return nil
	}
	if err := w.do(ctx, func() error { return w.drain(ctx, FlushEnd) }); err != nil {
		return fmt.Errorf("drain raw log: %w", err)
	}
	return nil
}

// Reopen makes the container's log anew where it was renamed or deleted, and
// writes there from then on. The new file exists when Reopen returns without
// error, and was not made when it returns one. ErrNotConverting says that there
// is no Run.
func (m *Manager) Reopen(ctx context.Context, id string) error {
	w := m.worker(id)
	if w == nil {
		return ErrNotConverting
	}
	return w.send(ctx, w.reopen)
}

// RawName returns which of Run.RawNames the container's raw log has; "" if
// there is none yet, or it cannot be told before ctx ends.
func (m *Manager) RawName(ctx context.Context, id string) string {
	w := m.worker(id)
	if w == nil {
		return ""
	}
	name := make(chan string, 1)
	if err := w.do(ctx, func() error { name <- w.follower.pos.Name; return nil }); err != nil {
		return ""
	}
	return <-name
}

// Forget ends the container's conversion, writes nothing more and deletes its
// checkpoint. ctx bounds how long it waits for a converter that hangs.
func (m *Manager) Forget(ctx context.Context, id string) error {
	m.mu.Lock()
	w := m.workers[id]
	delete(m.workers, id)
	m.mu.Unlock()
	if w == nil {
		return m.checkpoints.remove(id)
	}
	if err := w.stop(ctx); err != nil {
		return fmt.Errorf("container %s: %w", id, err)
	}
	return m.checkpoints.remove(id)
}

// Close converts what is there, saves where every converter stands and stops
// them. An unfinished line stays in the raw log for the next process. ctx bounds
// the work; all converters that do not hang have stopped when Close returns.
func (m *Manager) Close(ctx context.Context) error {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return nil
	}
	workers := m.workers
	m.workers, m.closed = nil, true
	m.mu.Unlock()
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		errs []error
	)
	for _, w := range workers {
		wg.Go(func() {
			err := w.do(ctx, func() error {
				return errors.Join(w.drain(ctx, FlushNone), w.checkpoint(true))
			})
			if errors.Is(err, ErrReported) {
				err = nil // the next process finds its place
			}
			if err = errors.Join(err, w.stop(ctx)); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, fmt.Errorf("container %s: %w", w.id, err))
			}
		})
	}
	wg.Wait()
	m.watcher.close()
	return errors.Join(errs...)
}
