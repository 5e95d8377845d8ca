package converter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/golang/glog"
)

// begin makes run the worker's Run. With create the container log is made if it
// is not there. What an earlier Run has converted of the same raw log is not
// converted again: the VM may be about to truncate it.
func (w *worker) begin(ctx context.Context, run Run, create bool) error {
	if w.run.LogName == run.LogName {
		w.run = run
		if create && w.out.file == nil {
			return w.reopen(ctx)
		}
		return nil
	}
	cp, err := w.leave(ctx)
	if err != nil {
		glog.Errorf("container %s: %v; its log itself must tell how far it goes", w.id, err)
	}
	w.out = output{root: w.cfg.LogRoot, rel: run.LogName, format: w.cfg.Format, open: w.cfg.openLog}
	w.split = Splitter{Max: w.cfg.MaxLine, WholeRunes: w.cfg.Format == DockerJSON}
	w.restarted, w.size, w.noticed = false, 0, ""
	w.run = run
	w.setFollower(run, RawPosition{})
	if err := w.out.openFile(create); err != nil {
		if !create && errors.Is(err, fs.ErrNotExist) {
			// Only kubelet may have it made again, by ReopenContainerLog: it
			// deletes the log before it removes the container.
			return nil
		}
		return fmt.Errorf("open container log: %w", err)
	}
	w.attach(cp)
	return nil
}

// attach goes on where the container log, which is open, ends.
func (w *worker) attach(cp *Checkpoint) {
	w.setFollower(w.run, w.resume(cp))
	w.greet()
	if err := w.follower.arm(); err != nil {
		glog.V(1).Infof("watch the raw log of container %s: %v", w.id, err)
	}
	w.dirty = true
	if err := w.checkpoint(true); err != nil {
		w.cpFault.set(err)
	}
	if len(w.run.RawNames) > 0 {
		glog.V(1).Infof("container %s: converting %s to %s, from byte %d", w.id, strings.Join(w.run.RawNames, " or "), w.out.path(), w.follower.pos.Offset)
	}
}

// leave ends the present Run, if there is one, and returns the last checkpoint.
func (w *worker) leave(ctx context.Context) (*Checkpoint, error) {
	if w.out.file == nil {
		return w.checkpoints.load(w.id)
	}
	if err := w.drain(ctx, FlushEnd); err != nil {
		glog.Errorf("container %s: end %s: %v", w.id, w.out.path(), err)
	}
	cp := &Checkpoint{Raw: w.follower.pos, Log: LogPosition{Path: w.out.path()}}
	return cp, w.out.close()
}

func (w *worker) setFollower(run Run, pos RawPosition) {
	w.follower.close()
	w.follower = newFollower(w.watcher, w.cfg.RawRoot, run.RawNames, pos)
}

// resume returns where in the raw log the container log ends, as far as the
// checkpoint and the two files tell, and sets the splitter to it.
func (w *worker) resume(cp *Checkpoint) RawPosition {
	switch {
	case cp == nil:
		cp = &Checkpoint{} // all that is known is what the log carries
	case cp.Log.Path != w.out.path():
		return cp.Raw // of the attempt before
	}
	raw, pos, err := w.openRawAt(cp.Raw)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			w.rawFault.set(err)
		}
		w.split.SplitState = cp.Split
		return cp.Raw
	}
	defer raw.Close()
	if w.out.last.Before(cp.Time) {
		w.out.last = cp.Time
	}
	if pos.Offset != cp.Raw.Offset || pos.ID != cp.Raw.ID && cp.Raw.Name != "" {
		// The VM has started again meanwhile: what the log carries is of the
		// content before.
		w.split.Open, w.restarted = w.out.openLine, true
		return pos
	}
	w.split.SplitState = cp.Split
	r := newReplayer(w.out.encoder.Format, w.split.SplitState, io.NewSectionReader(raw, pos.Offset, 1<<62))
	err = w.replayLogs(r, cp.Log)
	w.split.SplitState = r.split
	if err != nil {
		glog.Errorf("container %s: resume at byte %d of %s: %v; lines may be missing or doubled around there", w.id, pos.Offset+r.consumed, pos.Name, err)
		w.split.SplitState = SplitState{Open: w.out.openLine}
	}
	pos.Offset += r.consumed
	tail := make([]byte, min(tailLength, pos.Offset))
	if _, err := raw.ReadAt(tail, pos.Offset-int64(len(tail))); err != nil {
		w.rawFault.set(err)
		return cp.Raw
	}
	pos.Tail = tail
	return pos
}

// openRawAt opens the raw log that pos is about and returns pos, or the start
// of the raw log that took its place. The caller closes the file.
func (w *worker) openRawAt(pos RawPosition) (*os.File, RawPosition, error) {
	f := newFollower(w.watcher, w.cfg.RawRoot, w.run.RawNames, pos)
	defer w.watcher.unsubscribe(f.sub)
	buf := make([]byte, tailLength+1)
	if _, _, err := f.read(buf); err != nil {
		f.closeFile()
		return nil, pos, err
	}
	if f.file == nil {
		return nil, pos, fs.ErrNotExist
	}
	return f.file, f.pos, nil
}

// replayLogs matches what the container log carries beyond from: the rest of
// the file that from is in, which may have been renamed since, and the present
// one.
func (w *worker) replayLogs(r *replayer, from LogPosition) error {
	if from.ID == w.out.id {
		return r.run(io.NewSectionReader(w.out.file, from.Offset, w.out.size-from.Offset))
	}
	if old := w.findLog(from.ID); old != nil {
		defer old.Close()
		if err := r.run(io.NewSectionReader(old, from.Offset, 1<<62)); err != nil {
			return err
		}
	}
	return r.run(io.NewSectionReader(w.out.file, 0, w.out.size))
}

// findLog opens the rotated container log with the given identity, nil if there
// is none.
func (w *worker) findLog(id fileID) logFile {
	names, _ := filepath.Glob(w.out.path() + ".*") // LogName has no meta characters that matter: a miss is told
	for _, name := range names {
		fi, err := os.Lstat(name)
		if err != nil || idOf(fi) != id || !fi.Mode().IsRegular() {
			continue
		}
		rel, err := filepath.Rel(w.cfg.LogRoot, name)
		if err != nil {
			continue
		}
		if f, err := openBeneath(w.cfg.LogRoot, rel, os.O_RDONLY, 0); err == nil {
			return f
		}
	}
	return nil
}
