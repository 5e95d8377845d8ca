package converter

import (
	"errors"
	"os"

	"github.com/golang/glog"
	"golang.org/x/sys/unix"
)

const (
	// DefaultRawRetain is how many converted bytes of a raw log are kept.
	DefaultRawRetain = 1 << 20
	// reclaimStep is the least that is given back at a time.
	reclaimStep = 1 << 20
	// blockSize is what file systems give back at the least.
	blockSize = 4096
)

// space says how far one raw log may be given back, and how far it is.
type space struct {
	id            fileID
	safe, punched int64
}

// mayGive notes what a checkpoint that was saved makes superfluous. Nothing is
// while the content is of the Run before: giving it back would look like the
// start of the VM.
func (w *worker) mayGive(cp *Checkpoint) {
	if cp.Raw.Stale != 0 {
		w.given = space{}
		return
	}
	if w.given.id != cp.Raw.ID {
		w.given = space{id: cp.Raw.ID}
	}
	w.given.safe = cp.Raw.Offset
	if cp.Before != nil {
		w.given.safe = cp.Before.Raw.Offset
	}
}

// reclaim gives the blocks of converted bytes back to the file system. Sizes,
// offsets and the writer's descriptor stay as they are: the bytes become a hole
// (fallocate(2), FALLOC_FL_PUNCH_HOLE). Only what the last saved checkpoint
// covers goes.
func (w *worker) reclaim() {
	g := &w.given
	if w.cfg.RawRetain < 0 || w.follower.file == nil || g.id != w.follower.pos.ID {
		return
	}
	limit := min(g.safe, w.follower.pos.Offset) - w.cfg.RawRetain
	limit -= limit % blockSize
	if limit-g.punched < reclaimStep {
		return
	}
	if same, err := w.follower.tailIsThere(); err != nil || !same {
		return // it was truncated just now: what is there is new
	}
	err := w.punch(g.punched, limit-g.punched)
	g.punched = limit
	if err != nil {
		g.punched = 1 << 62 // not for this file
		glog.Errorf("container %s: the space of its raw log cannot be given back, so that it grows: %v; have raw logs on a file system that can, such as ext4, XFS or tmpfs", w.id, err)
	}
}

// punch makes a hole in the raw log.
func (w *worker) punch(offset, length int64) error {
	f, err := openBeneath(w.cfg.RawRoot, w.follower.pos.Name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if id, err := rawIDOf(f); err != nil || id != w.follower.pos.ID {
		return err // rotated: whoever rotates it will delete it
	}
	for {
		err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, offset, length)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
