package converter

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/golang/glog"
)

// begin makes run the worker's Run. With create the container log is made if it
// is not there. What an earlier Run has converted of the same raw log is not
// converted again: the VM may be about to truncate it.
func (w *worker) begin(ctx context.Context, run Run, create bool) error {
	if w.run.LogName == run.LogName {
		return w.beginAgain(run, create)
	}
	cp, err := w.leave(ctx)
	if err != nil {
		glog.Errorf("container %s: %v; its log itself must tell how far it goes", w.id, err)
	}
	w.out = output{root: w.cfg.LogRoot, rel: run.LogName, format: w.cfg.Format, open: w.cfg.openLog}
	w.split = Splitter{Max: w.cfg.MaxLine, WholeRunes: w.cfg.Format == DockerJSON}
	w.restarted, w.gap, w.size, w.noticed, w.before, w.reopened = false, gap{}, 0, "", nil, time.Time{}
	w.run, w.create = run, create
	w.setFollower(run, RawPosition{})
	if err := w.out.openFile(create); err != nil {
		if !create && errors.Is(err, fs.ErrNotExist) {
			return nil // see hasLog
		}
		return fmt.Errorf("open container log: %w", err)
	}
	w.attach(cp)
	return nil
}

// beginAgain is begin for the log that is being written already: more is known
// of its raw log now.
func (w *worker) beginAgain(run Run, create bool) error {
	before := w.run
	w.run, w.create = run, w.create || create
	if create && w.out.file == nil {
		return w.openLog(true)
	}
	if run.RawAppends != before.RawAppends || !slices.Equal(run.RawNames, before.RawNames) {
		w.setFollower(run, w.follower.pos)
	}
	if run.Notice == "" || run.Notice == before.Notice || w.out.file == nil {
		return nil
	}
	return w.notice(run.Notice)
}

// openLog opens the container log of the present Run, which was not there
// before, and goes on from the last checkpoint.
func (w *worker) openLog(create bool) error {
	if err := w.out.openFile(create); err != nil {
		return err
	}
	cp, err := w.checkpoints.load(w.id)
	if err != nil {
		glog.Errorf("container %s: %v; its log itself must tell how far it goes", w.id, err)
	}
	w.attach(cp)
	return nil
}

// hasLog says that there is a container log to write to. One that could not be
// made is tried again. One that was not there when this process began is not
// made: kubelet deletes a log before it removes the container. But kubelet may
// be about to put it back, because it is in the middle of a rotation.
func (w *worker) hasLog() bool {
	if w.out.file != nil {
		return true
	}
	err := w.openLog(w.create)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		w.logFault.set(err)
	}
	return err == nil
}

// attach goes on where the container log, which is open, ends.
func (w *worker) attach(cp *Checkpoint) {
	w.dirty = false
	w.setFollower(w.run, w.resume(cp))
	if cp != nil && cp.Log.Path != w.out.path() {
		if err := w.follower.waitForStart(); err != nil {
			w.rawFault.set(err)
		}
	}
	w.greet()
	if err := w.follower.arm(); err != nil {
		glog.V(1).Infof("watch the raw log of container %s: %v", w.id, err)
	}
	switch {
	case cp == nil, cp.Log.Path != w.out.path():
		w.dirty = true
		// A power cut must not have us take the old content for the new.
		if err := w.checkpoint(true); err != nil {
			w.cpFault.set(err)
		}
	case cp.Before != nil:
		w.reopened = time.Now()
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
	return w.position(), w.out.close()
}

func (w *worker) setFollower(run Run, pos RawPosition) {
	w.follower.close()
	w.follower = newFollower(w.watcher, w.cfg.RawRoot, run, pos)
	w.given = space{}
}
