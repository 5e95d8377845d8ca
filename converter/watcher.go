package converter

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// lookInterval is the time between two looks at every followed file, for
	// the events that inotify did not deliver: a full queue, a file system
	// without events.
	lookInterval = 15 * time.Second
	// blindInterval is the same for files that could not be watched.
	blindInterval = 250 * time.Millisecond
)

// What is watched of a file: that it changes, and that it loses its name.
// IN_ATTRIB tells of the deletion of a file that somebody holds open.
const (
	fileChanges = unix.IN_MODIFY
	fileLeaves  = unix.IN_ATTRIB | unix.IN_MOVE_SELF
)

// watcher is the one inotify instance of the process.
//
// Of the changes of a file only the next one counts: QEMU writes one byte per
// write(2), and whoever reads a busy file on a timer must not be told of each.
// A change that nobody waits for mutes the watch. That of a quiet file stays as it
// is: with IN_ONESHOT the kernel takes it apart for each line, while the writer
// waits.
type watcher struct {
	inotify *os.File // nil: not to be had, all subscriptions are blind
	done    chan struct{}
	blinded chan struct{} // there is a new blind subscription
	loops   sync.WaitGroup

	mu   sync.Mutex
	subs map[*subscription]struct{}
	byWD map[int32][]*subscription
}

// subscription is the interest of one follower.
type subscription struct {
	// C receives when the follower should look. It holds one wake-up.
	C chan struct{}
	// names is set when names may have changed, not only what is in the file.
	names atomic.Bool
	// changed tells cheaply whether there is something to see. It is called
	// from the watcher's goroutine, on the slow look.
	changed func() bool

	// Guarded by watcher.mu:
	fileWD, dirWD       int32    // -1: none
	file                *os.File // of fileWD
	told                bool     // of a change of file since it was armed
	muted               bool     // no change of file is delivered
	blindFile, blindDir bool     // it should be watched and cannot
}

func (s *subscription) blind() bool { return s.blindFile || s.blindDir }

// newWatcher starts a watcher. Without inotify it looks at the files itself.
func newWatcher() (*watcher, error) {
	w := &watcher{
		done:    make(chan struct{}),
		blinded: make(chan struct{}, 1),
		subs:    make(map[*subscription]struct{}),
		byWD:    make(map[int32][]*subscription),
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err == nil {
		w.inotify = os.NewFile(uintptr(fd), "inotify")
		w.loops.Go(w.readEvents)
	} else {
		err = fmt.Errorf("no inotify instance (fs.inotify.max_user_instances): looking at raw logs every %v instead: %w", blindInterval, err)
	}
	w.loops.Go(w.lookNowAndThen)
	return w, err
}

// close stops the watcher's goroutines and waits for them.
func (w *watcher) close() {
	close(w.done)
	if w.inotify != nil {
		w.inotify.Close()
	}
	w.loops.Wait()
}

func (w *watcher) subscribe(changed func() bool) *subscription {
	s := &subscription{C: make(chan struct{}, 1), changed: changed, fileWD: -1, dirWD: -1}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.subs[s] = struct{}{}
	return s
}

func (w *watcher) unsubscribe(s *subscription) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.drop(s, &s.fileWD)
	w.drop(s, &s.dirWD)
	delete(w.subs, s)
}

// armFile has s woken at the next change of f. What changed before the call
// wakes nobody: arm, then look.
func (w *watcher) armFile(s *subscription, f *os.File) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s.fileWD >= 0 && !s.muted {
		s.told = false
		return nil
	}
	wd, err := w.add(&s.blindFile, pathOf(f), fileChanges|fileLeaves)
	if wd != s.fileWD {
		w.drop(s, &s.fileWD)
		w.join(s, &s.fileWD, wd)
	}
	s.file, s.told, s.muted = f, false, false
	return err
}

// pathOf is a path to the file itself, whatever its name is now.
func pathOf(f *os.File) string { return "/proc/self/fd/" + strconv.Itoa(int(f.Fd())) }

// watchDir has s woken whenever a name appears in dir, instead of in the
// directory watched before.
func (w *watcher) watchDir(s *subscription, dir string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	// The kernel is asked each time: the name may be another directory's by now,
	// and no event tells that one was deleted in which a file is still open.
	wd, err := w.add(&s.blindDir, dir, unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_DELETE_SELF|unix.IN_MOVE_SELF|unix.IN_ONLYDIR)
	if wd != s.dirWD {
		w.drop(s, &s.dirWD)
		w.join(s, &s.dirWD, wd)
	}
	return err
}

// releaseFile takes back armFile, before its file is closed.
func (w *watcher) releaseFile(s *subscription) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.drop(s, &s.fileWD)
}

// add watches path and returns the watch; -1 if there is none. blind is set if
// the slow look must do without.
func (w *watcher) add(blind *bool, path string, mask uint32) (int32, error) {
	if w.inotify == nil {
		w.setBlind(blind, true)
		return -1, nil
	}
	wd := -1
	err := w.control(func(fd int) (err error) {
		wd, err = unix.InotifyAddWatch(fd, path, mask)
		return err
	})
	w.setBlind(blind, errors.Is(err, unix.ENOSPC) /* no watches left */ || err == nil && eventless(path))
	return int32(wd), err
}

func (w *watcher) setBlind(blind *bool, now bool) {
	if now && !*blind {
		select {
		case w.blinded <- struct{}{}:
		default:
		}
	}
	*blind = now
}

// join makes s a part of the watch got, as *wd.
func (w *watcher) join(s *subscription, wd *int32, got int32) {
	if got >= 0 {
		*wd = got
		w.byWD[got] = append(w.byWD[got], s)
	}
}

// drop ends the part of s in the watch *wd, and the watch with its last part.
func (w *watcher) drop(s *subscription, wd *int32) {
	if *wd < 0 {
		return
	}
	if old := *wd; w.forget(s, wd) == 0 {
		// It may be gone already: an event may be on its way.
		_ = w.control(func(fd int) error {
			_, err := unix.InotifyRmWatch(fd, uint32(old))
			return err
		})
	}
}

// forget takes s out of the watch *wd and returns how many are left in it.
func (w *watcher) forget(s *subscription, wd *int32) (left int) {
	rest := slices.DeleteFunc(w.byWD[*wd], func(other *subscription) bool { return other == s })
	w.byWD[*wd] = rest
	if len(rest) == 0 {
		delete(w.byWD, *wd)
	}
	*wd = -1
	return len(rest)
}

func (w *watcher) control(do func(fd int) error) error {
	conn, err := w.inotify.SyscallConn()
	if err != nil {
		return err
	}
	var doErr error
	if err := conn.Control(func(fd uintptr) { doErr = do(int(fd)) }); err != nil {
		return err // closed
	}
	return doErr
}

func (w *watcher) readEvents() {
	buf := make([]byte, 64<<10)
	for {
		n, err := w.inotify.Read(buf)
		if err != nil {
			return // closed
		}
		w.dispatch(buf[:n])
	}
}

// dispatch wakes whom the events concern. See inotify(7) for their layout.
func (w *watcher) dispatch(events []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(events) >= unix.SizeofInotifyEvent {
		wd := int32(binary.NativeEndian.Uint32(events))
		mask := binary.NativeEndian.Uint32(events[4:])
		length := binary.NativeEndian.Uint32(events[12:])
		events = events[unix.SizeofInotifyEvent+length:]
		if mask&unix.IN_Q_OVERFLOW != 0 {
			for s := range w.subs {
				s.wakeForNames()
			}
			continue
		}
		if mask == fileChanges {
			w.fileChanged(wd)
			continue
		}
		for _, s := range slices.Clone(w.byWD[wd]) {
			if mask&unix.IN_IGNORED != 0 { // the watch is gone
				if s.fileWD == wd {
					w.forget(s, &s.fileWD)
				} else {
					w.forget(s, &s.dirWD)
				}
			}
			s.wakeForNames()
		}
	}
}

// fileChanged wakes the followers of a file that wait for it to change. If there
// is none, it mutes the watch until one does.
func (w *watcher) fileChanged(wd int32) {
	subs, news := w.byWD[wd], false
	for _, s := range subs {
		if !s.told {
			s.told, news = true, true
			s.wake()
		}
	}
	if news || len(subs) == 0 {
		return
	}
	err := w.control(func(fd int) error {
		_, err := unix.InotifyAddWatch(fd, pathOf(subs[0].file), fileLeaves)
		return err
	})
	for _, s := range subs {
		s.muted = err == nil
	}
}

// lookNowAndThen wakes the followers that missed something.
func (w *watcher) lookNowAndThen() {
	tick := time.NewTicker(blindInterval)
	defer tick.Stop()
	for last := time.Now(); ; {
		interval := lookInterval
		if w.anyBlind() {
			interval = blindInterval
		}
		tick.Reset(interval)
		select {
		case <-w.done:
			return
		case <-w.blinded:
			continue
		case <-tick.C:
		}
		all := time.Since(last) >= lookInterval
		if all {
			last = time.Now()
		}
		for _, s := range w.lookAt(all) {
			if s.changed() {
				s.wakeForNames()
			}
		}
	}
}

func (w *watcher) anyBlind() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for s := range w.subs {
		if s.blind() {
			return true
		}
	}
	return false
}

func (w *watcher) lookAt(all bool) []*subscription {
	w.mu.Lock()
	defer w.mu.Unlock()
	list := make([]*subscription, 0, len(w.subs))
	for s := range w.subs {
		if all || s.blind() {
			list = append(list, s)
		}
	}
	return list
}

func (s *subscription) wake() {
	select {
	case s.C <- struct{}{}:
	default:
	}
}

func (s *subscription) wakeForNames() {
	s.names.Store(true)
	s.wake()
}
