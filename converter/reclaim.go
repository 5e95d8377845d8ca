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

// reclaim gives the blocks of converted bytes back to the file system. Sizes,
// offsets and the writer's descriptor stay as they are: the bytes become a hole
// (fallocate(2), FALLOC_FL_PUNCH_HOLE). Only what the last saved checkpoint
// covers goes.
func (w *worker) reclaim() {
	limit := w.safe - w.cfg.RawRetain
	limit -= limit % blockSize
	if w.cfg.RawRetain < 0 || w.follower.file == nil || limit-w.punched < reclaimStep {
		return
	}
	err := w.punch(w.punched, limit-w.punched)
	w.punched = limit
	if err != nil {
		w.punched = 1 << 62 // not for this file
		glog.V(1).Infof("container %s: the raw log's disk space cannot be given back: %v", w.id, err)
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
