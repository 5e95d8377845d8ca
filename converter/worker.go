package converter

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/golang/glog"
)

const (
	// A raw log that is being written to is read after minPoll, and then twice as
	// long each time, up to maxPoll: QEMU writes single bytes. A quiet one is not
	// polled but watched.
	minPoll = 500 * time.Microsecond
	maxPoll = 40 * time.Millisecond
	// turnBytes bounds what a worker converts before it looks for commands.
	turnBytes = 4 << 20
	// checkpointInterval bounds what a replay after a crash has to walk over,
	// in time.
	checkpointInterval = time.Second

	// tellAfter is how long a log must have stood still for its readers to be
	// told.
	tellAfter = time.Second
)

// Run is one attempt of one container: what is converted into what.
type Run struct {
	// ContainerID names the worker, its checkpoint and the lines in our log.
	ContainerID string
	// RawNames are the paths below Config.RawRoot that the raw log may have,
	// the likeliest first. With none the container log gets notices only.
	RawNames []string
	// RawAppends says that the start of the VM leaves what the raw log holds.
	// Otherwise it empties the file, or makes a new one.
	RawAppends bool
	// LogName is the path of the container log below Config.LogRoot.
	LogName string
	// Notice, if not empty, is the first line of a container log that is made,
	// on stream stderr.
	Notice string
}

// worker converts the console of one container: one Run after the other. All
// its fields belong to its goroutine.
type worker struct {
	cfg         *Config
	buffers     *bufferPools
	watcher     *watcher
	checkpoints checkpoints
	id          string

	commands chan *command
	quit     chan struct{} // closed by the owner
	done     chan struct{} // closed by the worker

	run      Run // LogName "" before the first
	follower *follower
	split    Splitter
	out      output

	restarted bool // the raw log began anew, and its last line is still open
	gap       gap  // and this is missing in front of it

	before   *Checkpoint // where the log before the last reopen ended
	reopened time.Time   // when that was
	given    space       // what is, and may be, given back of the raw log

	poll     time.Duration // the time to the next read of a busy raw log
	lookUp   bool          // look whether the raw log has a successor
	behind   bool          // the last turn has left something unread
	grew     time.Time     // when the raw log was last seen to grow
	size     int64         // of the raw log, then
	dirty    bool          // the last checkpoint is not where we are
	saved    time.Time     // when that was
	create   bool          // a log that is not there may be made
	noticed  string        // the last raw fault that the container log tells of
	rawFault fault
	logFault fault
	cpFault  fault
}

// ErrNotConverting says that nothing is converted for a container.
var ErrNotConverting = errors.New("no converter runs for this container")

// startWorker starts a worker. The first thing that it does is first.
func startWorker(cfg *Config, pools *bufferPools, w *watcher, cps checkpoints, id string, first func(*worker)) *worker {
	wk := &worker{
		cfg: cfg, buffers: pools, watcher: w, checkpoints: cps, id: id,
		commands: make(chan *command),
		quit:     make(chan struct{}),
		done:     make(chan struct{}),
		follower: newFollower(w, cfg.RawRoot, Run{}, RawPosition{}),
		rawFault: fault{what: "read the raw log of container " + id, meanwhile: "its log lacks the output"},
		logFault: fault{what: "write the log of container " + id, meanwhile: "its output waits in the raw log"},
		cpFault:  fault{what: "save the checkpoint of container " + id, meanwhile: "a restart takes longer to find its place"},
	}
	go func() {
		first(wk)
		wk.loop()
	}()
	return wk
}

const forever = time.Duration(1<<63 - 1)

func (w *worker) loop() {
	defer close(w.done)
	defer func() {
		w.follower.close()
		if err := w.out.close(); err != nil {
			glog.Errorf("close the container log of container %s: %v", w.id, err)
		}
	}()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		wait := forever
		if w.run.LogName != "" {
			wait = w.turn()
		}
		timer.Reset(wait)
		w.lookUp = true
		select {
		case <-w.quit:
			return
		case cmd := <-w.commands:
			cmd.done <- cmd.do(cmd)
		case <-w.follower.sub.C:
			w.lookUp = w.follower.sub.names.Swap(false)
		case <-timer.C:
			w.lookUp = false
		}
	}
}

// turn converts what there is and returns how long to wait for the next turn,
// unless the follower's subscription says otherwise.
func (w *worker) turn() time.Duration {
	if !w.hasLog() {
		return undoLook
	}
	armed, watched := false, (*os.File)(nil)
	for {
		if wait, err := w.convert(FlushNone); err != nil {
			return wait
		}
		if size := w.follower.end; size != w.size || w.behind {
			w.size, w.grew = size, time.Now()
			w.maybeCheckpoint()
			if w.behind {
				return 0
			}
			w.poll = min(max(2*w.poll, minPoll), maxPoll)
			return w.poll
		}
		if armed && watched == w.follower.latest() {
			break
		}
		// What came before the watch, or with a file that is not the watched one,
		// no event tells: look again.
		armed, watched = true, w.follower.latest()
		w.poll, w.lookUp = 0, true
		if err := w.follower.arm(); err != nil {
			// Not told twice: the slow look sees to it.
			glog.V(1).Infof("watch the raw log of container %s: %v", w.id, err)
		}
	}
	if w.pendingText() {
		if wait := w.cfg.IdleFlush - time.Since(w.grew); wait > 0 {
			return wait
		}
		if wait, err := w.convert(FlushIdle); err != nil {
			return wait
		}
	}
	return w.maybeCheckpoint()
}

// pendingText says that there is text without a line end that the container
// log lacks.
func (w *worker) pendingText() bool { return w.follower.pos.Offset < w.size }

// convert moves whole lines from the raw log to the container log until the
// raw log's end or turnBytes are reached. The error has been reported; wait is
// how long to leave it alone.
func (w *worker) convert(flush Flush) (wait time.Duration, err error) {
	b := w.buffers.get(w.behind)
	defer func() { b.put() }()
	if w.mayBePutBack() && w.out.orphaned() {
		if err := w.adopt(); err != nil {
			return w.logFailed(err)
		}
	}
	if err := w.out.flushRest(); err != nil {
		return w.logFailed(err)
	}
	w.behind = false
	var next successor
	ending := false // the file has been replaced by next: this is the rest of it
	for total := 0; total < turnBytes; {
		known := w.follower.pos.Name != ""
		data, restarted, err := w.follower.read(b.raw)
		if !known && w.follower.pos.Name != "" {
			w.dirty = true
			w.checkpointNow() // or a rotation hides from a replay which file was the first
		}
		if restarted {
			w.restarted, w.gap = true, w.follower.gap
		}
		if w.restarted {
			if err := w.restart(b); err != nil {
				return w.logFailed(err)
			}
		}
		if err != nil {
			return w.rawFailed(err)
		}
		w.rawFault.clear()
		w.noticed = ""
		atEnd := len(data) < len(b.raw)-tailLength
		f := FlushNone
		if atEnd {
			f = flush
			if ending && !next.continues {
				f = FlushEnd
			}
		}
		n, err := w.convertData(b, data, f)
		total += n
		if err != nil {
			return w.logFailed(err)
		}
		w.logWorks()
		if !atEnd {
			if w.split.Hole > 0 {
				w.split.Hole += w.follower.skipHole()
			}
			b.put()
			b = w.buffers.get(true)
			continue
		}
		if !ending {
			if !w.lookUp {
				return 0, nil
			}
			if next, ending = w.follower.successor(); !ending {
				return 0, nil
			}
			continue // once more: the file may have been written to before
		}
		moved, err := w.moveOn(next)
		if err != nil {
			return w.rawFailed(err)
		}
		if !moved {
			return 0, nil // an event tells of the rotation
		}
		ending = false
	}
	w.behind = true
	return 0, nil
}

// moveOn goes on with the file that took the place of the one that is read to
// its end.
func (w *worker) moveOn(next successor) (moved bool, err error) {
	moved, err = w.follower.moveOn(next)
	if moved && !next.continues {
		w.restarted, w.dirty, w.gap = true, true, next.gap
	}
	return moved, err
}

// restart begins a new content of the raw log.
func (w *worker) restart(b *buffers) error {
	glog.V(1).Infof("container %s: raw log %s begins anew", w.id, w.follower.pos.Name)
	if err := w.breakLine(b); err != nil {
		return err
	}
	if w.gap.found {
		if err := w.notice(w.gap.text()); err != nil {
			return err
		}
		glog.Errorf("container %s: %s", w.id, w.gap.text())
		w.gap = gap{}
	}
	w.split.SplitState = SplitState{}
	w.restarted, w.dirty, w.given = false, true, space{}
	w.checkpointNow() // a replay must not look for the new content in the old
	return nil
}

// convertData writes the lines in data, which read has put into b.raw, and
// moves the follower over what it has written.
func (w *worker) convertData(b *buffers, data []byte, flush Flush) (total int, err error) {
	if len(data) == 0 && flush != FlushEnd {
		return 0, nil
	}
	w.out.setTime(time.Now())
	base := len(w.follower.pos.Tail)
	for done := false; !done; {
		before := w.split.SplitState
		batch, n := b.batch[:0], 0
		for len(batch) < b.full {
			var plain int
			batch, plain = w.out.encoder.appendPlain(batch, data[total+n:], &w.split)
			n += plain
			line, k, ok := w.split.Next(data[total+n:], flush)
			n += k
			if !ok {
				done = true
				break
			}
			batch = w.out.encoder.Append(batch, line)
		}
		b.batch = batch[:0]
		taken, err := w.out.write(batch)
		if !taken {
			w.split.SplitState = before
			return total, err
		}
		if n > 0 || len(batch) > 0 {
			w.dirty = true
		}
		if w.follower.advance(b.raw[base-len(w.follower.pos.Tail)+total:], n) {
			// Should the file before be deleted before we are here again, this
			// one counts from its start.
			w.checkpointNow()
		}
		total += n
		if err != nil {
			return total, err
		}
	}
	return total, nil
}

// breakLine ends a line that cannot go on.
func (w *worker) breakLine(b *buffers) error {
	before := w.split.SplitState
	if !w.split.Break() {
		return nil
	}
	w.out.setTime(time.Now())
	taken, err := w.out.write(w.out.encoder.Append(b.batch[:0], Line{}))
	if !taken {
		w.split.SplitState = before
	}
	return err
}

// drain converts everything that the raw log holds now.
func (w *worker) drain(ctx context.Context, flush Flush) error {
	if w.run.LogName == "" || !w.hasLog() {
		return nil
	}
	for target := int64(-1); ; {
		if _, err := w.convert(flush); err != nil {
			return reported(err)
		}
		if target < 0 {
			target = w.follower.size()
		}
		left := min(target, w.follower.size()) - w.follower.pos.Offset
		if left <= 0 || flush != FlushEnd && left <= int64(w.split.MaxPending()) {
			w.size = w.follower.size()
			w.checkpointNow()
			return nil
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("%d bytes of console output are not in the log yet: %w", left, err)
		}
	}
}

// reopen goes on in a new file after kubelet has renamed the log. No file is
// made after kubelet has given up waiting: it puts the old one back then, and
// CRI says that there must be no new one (api.proto, ReopenContainerLog).
func (w *worker) reopen(cmd *command) error {
	if w.run.LogName == "" {
		return ErrNotConverting
	}
	if w.out.file == nil {
		if !cmd.commit() {
			return errGivenUp
		}
		if err := w.finishRotated(); err != nil {
			glog.Errorf("container %s: end the log that was rotated: %v", w.id, err)
		}
		if err := w.openLog(true); err != nil {
			return fmt.Errorf("reopen container log: %w", err)
		}
		return nil
	}
	// What is read at once belongs in the old file; a backlog, or what cannot be
	// written there, goes to the new one.
	if _, err := w.convert(FlushNone); err == nil {
		if err := w.breakLine(&buffers{}); err != nil {
			glog.V(1).Infof("end the line of container %s before its log is reopened: %v", w.id, err)
		}
	}
	if !cmd.commit() {
		return errGivenUp
	}
	old := w.position()
	if err := w.out.reopen(); err != nil {
		return fmt.Errorf("reopen container log: %w", err)
	}
	if w.out.id != old.Log.ID {
		w.before, w.reopened, w.dirty = old, time.Now(), true
	}
	w.greet()
	w.checkpointNow()
	glog.V(2).Infof("container %s: reopened %s", w.id, w.out.path())
	return nil
}
