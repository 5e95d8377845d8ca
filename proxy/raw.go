package proxy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/golang/glog"

	"github.com/cri-logproxy/cri-logproxy/proxy/logmap"
)

// onRawDisk calls fn with the directory of the raw logs. It waits drainTimeout
// at most, and not longer than ctx: a disk may hang. fn goes on then.
func (s *Server) onRawDisk(ctx context.Context, fn func(root *os.Root) error) error {
	if s.rawRoot() == "" {
		return errors.New("there is no --vm-log-location for raw logs")
	}
	done := make(chan struct{})
	var err error
	go func() {
		defer close(done)
		var root *os.Root
		if root, err = os.OpenRoot(s.rawRoot()); err == nil {
			err = errors.Join(fn(root), root.Close())
		}
	}()
	if hangs := inTime(ctx, done); hangs != nil {
		return fmt.Errorf("the disk of the raw logs hangs: %w", hangs)
	}
	return err
}

// inTime waits until done is closed, drainTimeout at most, and not longer than
// ctx: a disk may hang.
func inTime(ctx context.Context, done <-chan struct{}) error {
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// makeRawDir makes the directory of a sandbox's raw logs.
func (s *Server) makeRawDir(ctx context.Context, sandboxID string) error {
	return s.onRawDisk(ctx, func(root *os.Root) error {
		if err := root.Mkdir(bareID(sandboxID), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		return nil
	})
}

// rawLogsBefore are the names that the raw log of an earlier attempt has: the
// one that it was seen to have, or all that exist.
func (s *Server) rawLogsBefore(ctx context.Context, old logmap.Container) []string {
	if seen := s.converters.RawName(ctx, old.ID); slices.Contains(old.RawLogs, seen) {
		return []string{seen}
	}
	var names []string
	for _, f := range s.existingRaw(ctx, old) {
		names = append(names, f.name)
	}
	return names
}

// lastWritten is when the raw log of a container was last written to, in Unix
// nanoseconds; 0 if there is none.
func (s *Server) lastWritten(ctx context.Context, record logmap.Container) int64 {
	var last int64
	for _, f := range s.existingRaw(ctx, record) {
		last = max(last, f.info.ModTime().UnixNano())
	}
	return last
}

// rawFile is a file that is there, below the directory of the raw logs.
type rawFile struct {
	name string
	info fs.FileInfo
}

// existingRaw are the files that have a name which the raw log of a container may
// have; not all of them if the disk hangs.
func (s *Server) existingRaw(ctx context.Context, record logmap.Container) []rawFile {
	if s.rawRoot() == "" || len(record.RawLogs) == 0 {
		return nil
	}
	found := make(chan rawFile, len(record.RawLogs)) // fn may go on after us
	err := s.onRawDisk(ctx, func(root *os.Root) error {
		for _, name := range record.RawLogs {
			if info, err := root.Lstat(name); err == nil {
				found <- rawFile{name, info}
			}
		}
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		glog.Errorf("look for the raw logs of container %s: %v", record.ID, err)
	}
	var files []rawFile
	for len(found) > 0 {
		files = append(files, <-found)
	}
	return files
}

// discardRaw deletes the raw log of an attempt that is over, if the proxy has
// chosen it and all of it is in the log.
func (s *Server) discardRaw(ctx context.Context, old logmap.Container) {
	bounded, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	if s.consoles == nil || !old.RawAppends {
		return
	}
	if serial, err := s.consoles.Serial(bounded, old.ID); err != nil || serial.Active {
		return
	}
	if s.converters.RawName(bounded, old.ID) != "" && s.converters.Drain(bounded, old.ID) == nil {
		s.removeRaw(ctx, old)
	}
}

// removeRaw deletes the raw log that the proxy has chosen for a container, and
// what virtlogd has made of it. The runtime knows nothing of it, and libvirt
// would append the next VM's output. A raw log of the runtime's is the runtime's.
func (s *Server) removeRaw(ctx context.Context, record logmap.Container) {
	if !record.RawAppends {
		return
	}
	err := s.onRawDisk(ctx, func(root *os.Root) error {
		var err error
		for _, name := range record.RawLogs {
			err = errors.Join(err, root.Remove(name))
			for i := 0; root.Remove(name+"."+strconv.Itoa(i)) == nil; i++ {
			}
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		glog.Errorf("remove the raw log of container %s: %v", record.ID, err)
	}
}

// collectRaw deletes the raw directory of a sandbox that is gone, if the
// runtime has left it.
func (s *Server) collectRaw(ctx context.Context, sandboxID string) {
	if s.rawRoot() == "" || !isComponent(sandboxID) {
		return
	}
	err := s.onRawDisk(ctx, func(root *os.Root) error { return root.RemoveAll(bareID(sandboxID)) })
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		glog.Errorf("remove the raw logs of sandbox %s in %s: %v", sandboxID, filepath.Clean(s.rawRoot()), err)
	}
}
