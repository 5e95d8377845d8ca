package converter

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/golang/glog"
)

const (
	// undoTime is how long kubelet may take back a rotation: its time-out for
	// ReopenContainerLog (runtimeRequestTimeout) and some more.
	undoTime = 3 * time.Minute
	// undoLook is how often one looks whether it has, until then. kubelet looks
	// at a log every 3 s at the most (containerLogMonitorInterval).
	undoLook = time.Second
	// undoBytes bounds how much of the raw log is kept for that case.
	undoBytes = 8 << 20
)

// orphaned says that the container log was deleted and another file is at its
// path: kubelet has renamed the old log back over it, because it takes
// ReopenContainerLog for failed (pkg/kubelet/logs/container_log_manager.go,
// rotateLatestLog).
func (o *output) orphaned() bool {
	if o.file == nil {
		return false
	}
	fi, err := os.Lstat(o.path())
	return err == nil && fi.Mode().IsRegular() && idOf(fi) != o.id
}

// mayBePutBack says that kubelet may still take back the last rotation.
func (w *worker) mayBePutBack() bool {
	return !w.reopened.IsZero() && time.Since(w.reopened) < undoTime
}

// adopt goes on in the file that kubelet has put back, and repeats there what
// readers cannot see any more.
func (w *worker) adopt() error {
	orphan := w.out
	if err := w.out.openFile(false); err != nil {
		w.out = orphan
		return fmt.Errorf("take up the log that was put back: %w", err)
	}
	// The records in the orphan come before what the last write has left over.
	rest := append(readAll(orphan.file, orphan.size), orphan.rest...)
	w.out.rest, w.out.torn = rest, 0
	if w.out.last.Before(orphan.last) {
		w.out.last = orphan.last
	}
	w.before, w.dirty = nil, true
	glog.V(1).Infof("container %s: %s was put back; %d bytes are written again", w.id, w.out.path(), len(rest))
	return orphan.file.Close()
}

// readAll reads the records of an orphan. What cannot be read is missing: there
// is no other copy.
func readAll(f logFile, size int64) []byte {
	b := make([]byte, size)
	n, err := io.ReadFull(io.NewSectionReader(f, 0, size), b)
	if err != nil {
		glog.Errorf("read a log that was taken away: %v", err)
	}
	return b[:n]
}
