package converter

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/golang/glog"
)

// resume returns where in the raw log the container log ends, as far as the
// checkpoint and the files tell, and sets the splitter to it.
func (w *worker) resume(cp *Checkpoint) RawPosition {
	switch {
	case cp == nil:
		cp = &Checkpoint{} // all that is known is what the log carries
	case cp.Log.Path != w.out.path():
		return cp.Raw // of the attempt before
	}
	known := cp.Raw.Name != ""
	cp = w.afterFailedReopen(cp)
	if w.out.last.Before(cp.Time) {
		w.out.last = cp.Time
	}
	f := newFollower(w.watcher, w.cfg.RawRoot, w.run, cp.Raw)
	defer f.close()
	f.fromOldest = !known
	_, restarted, err := f.read(make([]byte, tailLength+1))
	switch {
	case err != nil:
		w.rawFault.set(err)
		fallthrough
	case f.file == nil:
		w.split.SplitState = cp.Split
		return cp.Raw
	case restarted:
		// The VM has started again meanwhile. A checkpoint is saved before the
		// first record of a new content is written, so all that the log carries
		// is of the one before.
		w.split.Open, w.restarted, w.gap = w.out.openLine, true, f.gap
		return f.pos
	}
	w.split.SplitState = cp.Split
	if cp.Log.ID == w.out.id && cp.Log.Offset == w.out.size {
		return f.pos // the log carries nothing beyond it
	}
	w.dirty = true
	pos, err := w.replay(f, cp)
	if err != nil {
		glog.Errorf("container %s: resume at byte %d of %s: %v; lines may be missing or doubled around there", w.id, pos.Offset, pos.Name, err)
		w.split.SplitState = SplitState{Open: w.out.openLine}
	}
	return pos
}

// replay walks from the checkpoint, at which f stands, over all that the
// container log carries beyond it.
func (w *worker) replay(f *follower, cp *Checkpoint) (RawPosition, error) {
	raw, err := openRest(f)
	if err != nil {
		return f.pos, err
	}
	defer raw.close()
	r := newReplayer(w.out.encoder.Format, cp.Split, raw.reader(f.pos.Offset))
	err = w.replayLogs(r, cp.Log)
	log := &w.out
	if w.out.size == 0 && cp.Raw.Name == "" {
		// There is no checkpoint, and the log was rotated just now.
		before := w.lastRotated()
		if before == nil && !w.create {
			before = w.logBefore() // or this attempt has not run: the raw log is of one before
		}
		if before != nil {
			defer before.close()
			log = before
		}
	}
	if errors.Is(err, errDiverged) || log != &w.out {
		// There is no checkpoint, or one from before the last rotations of the
		// log, or the start of the raw log was given back.
		if at, split, ok := log.locate(raw); ok {
			glog.Infof("container %s: its log goes on at byte %d of %s, by what both hold", w.id, at, f.pos.Name)
			w.split.SplitState = split
			return raw.position(f.pos.Name, at), nil
		}
	}
	w.split.SplitState = r.split
	return raw.position(f.pos.Name, f.pos.Offset+r.consumed), err
}

// afterFailedReopen returns the checkpoint to go on from: cp, or the one before
// the last ReopenContainerLog, if kubelet has put the old log back over the one
// that was made then.
func (w *worker) afterFailedReopen(cp *Checkpoint) *Checkpoint {
	if cp.Before == nil || cp.Log.ID == w.out.id || cp.Before.Log.ID != w.out.id {
		return cp
	}
	return cp.Before
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
	if rel := w.rotatedLog(id); rel != "" {
		if f, err := openBeneath(w.cfg.LogRoot, rel, os.O_RDONLY, 0); err == nil {
			return f
		}
	}
	return nil
}

// rotatedLog returns the path, below LogRoot, of the rotated container log with
// the given identity; "" if there is none.
func (w *worker) rotatedLog(id fileID) string {
	dir, base := filepath.Split(w.out.path())
	entries, err := os.ReadDir(dir)
	if err != nil {
		return ""
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), base+".") || !e.Type().IsRegular() {
			continue
		}
		if fi, err := e.Info(); err == nil && idOf(fi) == id {
			return filepath.Join(filepath.Dir(w.out.rel), e.Name())
		}
	}
	return ""
}

// lastRotated opens the log that was rotated last, nil if there is none. kubelet
// adds the time to its name, and compresses it only at the next rotation.
func (w *worker) lastRotated() *output {
	dir, base := filepath.Split(w.out.path())
	entries, err := os.ReadDir(dir) // in the order of their names
	if err != nil {
		return nil
	}
	for _, e := range slices.Backward(entries) {
		if !strings.HasPrefix(e.Name(), base+".") || strings.HasSuffix(e.Name(), ".gz") || strings.HasSuffix(e.Name(), ".tmp") {
			continue
		}
		rel := filepath.Join(filepath.Dir(w.out.rel), e.Name())
		old := &output{root: w.cfg.LogRoot, rel: rel, format: w.cfg.Format, open: w.cfg.openLog}
		if err := old.openFile(false); err != nil {
			return nil
		}
		return old
	}
	return nil
}

// finishRotated ends what an earlier process has left at the end of the log that
// kubelet has renamed: a torn record, an open line. It comes before the new log
// is made, at which followers leave the old one.
func (w *worker) finishRotated() error {
	cp, err := w.checkpoints.load(w.id)
	if err != nil || cp == nil || cp.Log.Path != w.out.path() {
		return err
	}
	rel := w.rotatedLog(cp.Log.ID)
	if rel == "" {
		return nil
	}
	old := output{root: w.cfg.LogRoot, rel: rel, format: w.cfg.Format, open: w.cfg.openLog}
	if err := old.openFile(false); err != nil {
		return err
	}
	if old.openLine {
		old.setTime(time.Now())
		_, err = old.write(old.encoder.Append(nil, Line{}))
	}
	return errors.Join(err, old.close())
}

// rawRest is a raw log from the file that a position is in to the newest one.
type rawRest struct {
	files []*os.File // in their order
	ids   []fileID
	sizes []int64
}

// errRotated says that a file is not under the name any more that it had.
var errRotated = errors.New("the raw log was rotated meanwhile")

// openRest opens the files from the one that f reads. The caller closes them.
func openRest(f *follower) (r *rawRest, err error) {
	for range maxGenerations {
		if r, err = tryOpenRest(f); !errors.Is(err, errRotated) {
			break
		}
	}
	return r, err
}

func tryOpenRest(f *follower) (*rawRest, error) {
	r := &rawRest{}
	files := chain{{name: f.pos.Name, id: f.pos.ID}}
	if all := generations(f.root, f.pos.Name); all.find(f.pos.ID) >= 0 {
		files = all[all.find(f.pos.ID):]
	}
	for _, g := range files {
		file, err := openBeneath(f.root, g.name, os.O_RDONLY, 0)
		if errors.Is(err, fs.ErrNotExist) {
			break // rotated meanwhile: the follower will find it
		}
		if err != nil {
			r.close()
			return nil, err
		}
		r.files = append(r.files, file)
		fi, err := file.Stat()
		if err == nil {
			var id fileID
			if id, err = rawIDOf(file); err == nil && id != g.id {
				err = errRotated
			}
		}
		if err != nil {
			r.close()
			return nil, err
		}
		r.ids = append(r.ids, g.id)
		r.sizes = append(r.sizes, fi.Size())
	}
	if len(r.files) == 0 {
		return nil, fs.ErrNotExist
	}
	return r, nil
}

func (r *rawRest) close() {
	for _, f := range r.files {
		f.Close()
	}
}

// reader reads from an offset in the first file on.
func (r *rawRest) reader(offset int64) io.Reader {
	var parts []io.Reader
	for i, f := range r.files {
		if offset < r.sizes[i] {
			parts = append(parts, io.NewSectionReader(f, offset, r.sizes[i]-offset))
		}
		offset = max(0, offset-r.sizes[i])
	}
	return io.MultiReader(parts...)
}

// position is the place at an offset from the start of the first file.
func (r *rawRest) position(name string, offset int64) RawPosition {
	i := 0
	for i+1 < len(r.files) && offset >= r.sizes[i] {
		offset -= r.sizes[i]
		i++
	}
	tail := make([]byte, min(tailLength, offset))
	n, _ := r.files[i].ReadAt(tail, offset-int64(len(tail))) // a wrong tail is a restart
	return RawPosition{Name: name, ID: r.ids[i], Offset: offset, Tail: tail[:n]}
}
