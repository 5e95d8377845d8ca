package converter

import (
	"bytes"
	"fmt"
	"time"
)

// maybeCheckpoint saves a checkpoint when one is due, and returns when to come
// back.
func (w *worker) maybeCheckpoint() time.Duration {
	if !w.dirty {
		w.reclaim()
		if w.mayBePutBack() {
			return undoLook
		}
		return forever
	}
	if wait := checkpointInterval - time.Since(w.saved); wait > 0 {
		return wait
	}
	if err := w.checkpoint(false); err != nil {
		return w.cpFault.set(err)
	}
	w.reclaim()
	return checkpointInterval
}

// checkpointNow saves a checkpoint that the next steps rely on for the case of a
// crash.
func (w *worker) checkpointNow() {
	if err := w.checkpoint(false); err != nil {
		w.cpFault.set(err)
	}
}

// checkpoint saves where the worker stands, if that has changed.
func (w *worker) checkpoint(durable bool) error {
	if w.out.file == nil {
		return nil // the last one still says where we are
	}
	if len(w.out.rest) > 0 {
		return nil // not all that is taken is in the log
	}
	if !w.dirty && !durable {
		return nil
	}
	w.saved = time.Now()
	cp := w.position()
	if w.before != nil && (time.Since(w.reopened) > undoTime || cp.Raw.ID != w.before.Raw.ID || cp.Raw.Offset-w.before.Raw.Offset > undoBytes) {
		w.before = nil
	}
	cp.Before = w.before
	if err := w.checkpoints.save(w.id, cp, durable); err != nil {
		return fmt.Errorf("save checkpoint: %w", err)
	}
	w.dirty = false
	w.cpFault.clear()
	w.mayGive(cp)
	return nil
}

// position is where the worker stands. The result does not change with it.
func (w *worker) position() *Checkpoint {
	raw := w.follower.pos
	raw.Tail = bytes.Clone(raw.Tail)
	return &Checkpoint{
		Raw:   raw,
		Log:   LogPosition{Path: w.out.path(), ID: w.out.id, Offset: w.out.size},
		Split: w.split.SplitState,
		Time:  w.out.last,
	}
}
