package converter

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"
)

// patience is what a test waits for something that must come at once.
const patience = 20 * time.Second

// blindTo is the changed function of a subscription whose follower is woken by
// events or not at all: the slow look never shows it anything.
func blindTo() bool { return false }

func startWatcher(t *testing.T) *watcher {
	t.Helper()
	w, err := newWatcher()
	must(t, err)
	t.Cleanup(w.close)
	return w
}

func waitWake(t *testing.T, s *subscription, why string) {
	t.Helper()
	select {
	case <-s.C:
	case <-time.After(patience):
		t.Fatalf("nobody was woken: %s", why)
	}
}

func expectAsleep(t *testing.T, s *subscription, why string) {
	t.Helper()
	select {
	case <-s.C:
		t.Errorf("somebody was woken: %s", why)
	default:
	}
}

// barrier returns when the watcher has delivered all events that were there:
// the kernel keeps their order.
func barrier(t *testing.T, w *watcher) {
	t.Helper()
	dir := t.TempDir()
	s := w.subscribe(blindTo)
	defer w.unsubscribe(s)
	must(t, w.watchDir(s, dir))
	must(t, os.WriteFile(filepath.Join(dir, "x"), nil, 0o600))
	waitWake(t, s, "barrier")
}

func createFile(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

func writeByte(t *testing.T, f *os.File) {
	t.Helper()
	_, err := f.Write([]byte("x"))
	must(t, err)
}

func TestWatcherOneWakePerArming(t *testing.T) {
	w := startWatcher(t)
	f := createFile(t, filepath.Join(t.TempDir(), "log"))
	s := w.subscribe(blindTo)
	writeByte(t, f)
	barrier(t, w)
	expectAsleep(t, s, "by a write before arming")
	for round := range 10 {
		for range 3 { // arming what is armed changes nothing
			must(t, w.armFile(s, f))
		}
		writeByte(t, f)
		waitWake(t, s, fmt.Sprintf("write %d", round))
		for range 100 {
			writeByte(t, f)
		}
		barrier(t, w)
		expectAsleep(t, s, "by writes that came after the first")
		expectMuted(t, w, s)
	}
	must(t, w.armFile(s, f))
	w.releaseFile(s)
	writeByte(t, f)
	barrier(t, w)
	expectAsleep(t, s, "by a write after releaseFile")
	must(t, w.armFile(s, f))
	writeByte(t, f)
	waitWake(t, s, "write after arming again")
}

// expectMuted says that the kernel delivers no changes of the file of s: a VM
// that writes single bytes wakes not even the watcher.
func expectMuted(t *testing.T, w *watcher, s *subscription) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if !s.muted {
		t.Error("the watch of a busy file is not muted")
	}
}

// TestWatcherMuted has a busy file lose its name.
func TestWatcherMuted(t *testing.T) {
	for name, change := range map[string]func(path string) error{
		"deletion": os.Remove,
		"rename":   func(path string) error { return os.Rename(path, path+".1") },
	} {
		t.Run(name, func(t *testing.T) {
			w := startWatcher(t)
			path := filepath.Join(t.TempDir(), "log")
			f := createFile(t, path)
			s := w.subscribe(blindTo)
			must(t, w.armFile(s, f))
			writeByte(t, f)
			waitWake(t, s, "write")
			barrier(t, w)
			writeByte(t, f)
			barrier(t, w)
			expectMuted(t, w, s)
			must(t, change(path))
			waitWake(t, s, name)
		})
	}
}

// TestWatcherRace has a follower arm, read and wait while somebody writes: it
// must see all bytes, without ever being woken by the slow look.
func TestWatcherRace(t *testing.T) {
	w := startWatcher(t)
	for range 4 {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "log")
			out, in := createFile(t, path), createFile(t, path)
			const total = 3000
			wrote := make(chan error, 1)
			go func() {
				for range total {
					for range rand.IntN(100) {
						runtime.Gosched()
					}
					if _, err := out.Write([]byte("x")); err != nil {
						wrote <- err
						return
					}
				}
				wrote <- nil
			}()
			s := w.subscribe(blindTo)
			defer w.unsubscribe(s)
			var got int64
			waits := 0
			read := func() {
				n, err := io.Copy(io.Discard, io.NewSectionReader(in, got, 1<<62))
				must(t, err)
				got += n
			}
			for {
				must(t, w.armFile(s, in))
				if read(); got == total {
					break
				}
				waits++
				waitWake(t, s, fmt.Sprintf("%d bytes of %d seen", got, total))
			}
			must(t, <-wrote)
			t.Logf("%d waits", waits)
		})
	}
}

func TestWatcherFileEvents(t *testing.T) {
	for name, change := range map[string]func(path string, f *os.File) error{
		"truncation":  func(_ string, f *os.File) error { return f.Truncate(0) },
		"deletion":    func(path string, _ *os.File) error { return os.Remove(path) },
		"rename":      func(path string, _ *os.File) error { return os.Rename(path, path+".1") },
		"replacement": func(path string, _ *os.File) error { return os.Rename(path+".new", path) },
		"hole":        func(_ string, f *os.File) error { return f.Truncate(1 << 20) },
	} {
		t.Run(name, func(t *testing.T) {
			w := startWatcher(t)
			path := filepath.Join(t.TempDir(), "log")
			f := createFile(t, path)
			createFile(t, path+".new")
			writeByte(t, f)
			s := w.subscribe(blindTo)
			must(t, w.armFile(s, f))
			must(t, change(path, f))
			waitWake(t, s, name)
		})
	}
}

func TestWatcherDirEvents(t *testing.T) {
	for name, change := range map[string]func(dir string) error{
		"file made":         func(dir string) error { return os.WriteFile(filepath.Join(dir, "x"), nil, 0o600) },
		"directory made":    func(dir string) error { return os.Mkdir(filepath.Join(dir, "x"), 0o700) },
		"renamed from here": func(dir string) error { return os.Rename(filepath.Join(dir, "old"), filepath.Join(dir, "x")) },
		"renamed from elsewhere": func(dir string) error {
			return os.Rename(filepath.Join(filepath.Dir(dir), "elsewhere"), filepath.Join(dir, "x"))
		},
		"directory renamed": func(dir string) error { return os.Rename(dir, dir+".1") },
		"directory deleted": os.RemoveAll,
	} {
		t.Run(name, func(t *testing.T) {
			w := startWatcher(t)
			dir := filepath.Join(t.TempDir(), "dir")
			must(t, os.Mkdir(dir, 0o700))
			must(t, os.WriteFile(filepath.Join(dir, "old"), nil, 0o600))
			must(t, os.WriteFile(filepath.Join(filepath.Dir(dir), "elsewhere"), nil, 0o600))
			s := w.subscribe(blindTo)
			for range 2 {
				must(t, w.watchDir(s, dir))
			}
			must(t, change(dir))
			waitWake(t, s, name)
		})
	}
}

// TestWatcherDirAnew has a directory go and come again.
func TestWatcherDirAnew(t *testing.T) {
	for name, remove := range map[string]func(dir string) error{
		"deleted": os.RemoveAll,
		"renamed": func(dir string) error { return os.Rename(dir, dir+".1") },
	} {
		t.Run(name, func(t *testing.T) {
			w := startWatcher(t)
			root := t.TempDir()
			dir := filepath.Join(root, "dir")
			s := w.subscribe(blindTo)
			// As follower.arm does it.
			arm := func() {
				err := w.watchDir(s, dir)
				if errors.Is(err, fs.ErrNotExist) {
					err = w.watchDir(s, root)
				}
				must(t, err)
			}
			for range 3 {
				arm()
				must(t, os.Mkdir(dir, 0o700))
				waitWake(t, s, "directory made")
				arm()
				must(t, os.WriteFile(filepath.Join(dir, "x"), nil, 0o600))
				waitWake(t, s, "file made")
				must(t, remove(dir))
				must(t, os.RemoveAll(dir+".1"))
				waitWake(t, s, "directory gone")
				barrier(t, w)
				select { // it may have been several events
				case <-s.C:
				default:
				}
			}
		})
	}
}

// TestWatcherDirReplaced has another directory take the place of the watched
// one: names in the new one count.
func TestWatcherDirReplaced(t *testing.T) {
	for name, remove := range map[string]func(dir string) error{
		"renamed": func(dir string) error { return os.Rename(dir, dir+".1") },
		// The kernel tells of the deletion only when the file is closed.
		"deleted with a file open in it": os.RemoveAll,
	} {
		t.Run(name, func(t *testing.T) {
			w := startWatcher(t)
			dir := filepath.Join(t.TempDir(), "dir")
			must(t, os.Mkdir(dir, 0o700))
			f := createFile(t, filepath.Join(dir, "log"))
			s := w.subscribe(blindTo)
			must(t, w.watchDir(s, dir))
			must(t, w.armFile(s, f))
			must(t, remove(dir))
			must(t, os.Mkdir(dir, 0o700))
			barrier(t, w)
			select { // a file that was renamed with its directory is the same
			case <-s.C:
			default:
			}
			must(t, w.watchDir(s, dir))
			must(t, os.WriteFile(filepath.Join(dir, "log"), nil, 0o600))
			waitWake(t, s, "file made in the new directory")
		})
	}
}

func TestWatcherMissing(t *testing.T) {
	w := startWatcher(t)
	dir := t.TempDir()
	s := w.subscribe(blindTo)
	if err := w.watchDir(s, filepath.Join(dir, "missing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing directory: %v", err)
	}
	createFile(t, filepath.Join(dir, "file"))
	if err := w.watchDir(s, filepath.Join(dir, "file")); err == nil {
		t.Error("a file was watched as a directory")
	}
	must(t, w.watchDir(s, dir))
	must(t, os.Mkdir(filepath.Join(dir, "x"), 0o700))
	waitWake(t, s, "after errors")
}

func TestWatcherShared(t *testing.T) {
	w := startWatcher(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "log")
	f, same := createFile(t, path), createFile(t, path)
	a, b, c := w.subscribe(blindTo), w.subscribe(blindTo), w.subscribe(blindTo)
	for round := range 5 {
		must(t, w.armFile(a, f))
		must(t, w.armFile(b, same))
		writeByte(t, f)
		waitWake(t, a, "first of two")
		waitWake(t, b, "second of two")
		barrier(t, w)
		expectAsleep(t, c, fmt.Sprintf("in round %d, without arming", round))
	}
	// One of them leaves.
	must(t, w.armFile(a, f))
	must(t, w.armFile(b, same))
	must(t, w.watchDir(a, dir))
	must(t, w.watchDir(b, dir))
	w.unsubscribe(a)
	writeByte(t, f)
	waitWake(t, b, "the other has left")
	must(t, os.WriteFile(path+".1", nil, 0o600))
	waitWake(t, b, "the other has left the directory")
	barrier(t, w)
	expectAsleep(t, a, "after it has unsubscribed")
	w.unsubscribe(b)
	w.unsubscribe(b)
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.byWD) != 0 || len(w.subs) != 1 {
		t.Errorf("left: %v, %v", w.byWD, w.subs)
	}
}

// TestWatcherSlowLook has a change that no event tells of.
func TestWatcherSlowLook(t *testing.T) {
	w := startWatcher(t)
	seen := w.subscribe(func() bool { return true })
	w.mu.Lock()
	seen.blindFile = true
	w.mu.Unlock()
	sees := w.subscribe(func() bool { return true })
	asleep := w.subscribe(blindTo)
	waitWake(t, seen, "blind")
	waitWake(t, sees, "on the slow look")
	expectAsleep(t, asleep, "without a change")
}

// TestWatcherNone has no inotify instance to offer.
func TestWatcherNone(t *testing.T) {
	w := &watcher{done: make(chan struct{}), blinded: make(chan struct{}, 1), subs: make(map[*subscription]struct{}), byWD: make(map[int32][]*subscription)}
	t.Cleanup(w.close)
	dir := t.TempDir()
	f := createFile(t, filepath.Join(dir, "log"))
	s := w.subscribe(func() bool {
		fi, err := f.Stat()
		return err == nil && fi.Size() > 0
	})
	must(t, w.watchDir(s, dir))
	must(t, w.armFile(s, f))
	w.loops.Go(w.lookNowAndThen)
	writeByte(t, f)
	waitWake(t, s, "blind")
	w.releaseFile(s)
	w.unsubscribe(s)
}

func TestWatcherClose(t *testing.T) {
	w, err := newWatcher()
	must(t, err)
	dir := t.TempDir()
	var subs []*subscription
	var files []*os.File
	for i := range 10 {
		f := createFile(t, filepath.Join(dir, strconv.Itoa(i)))
		s := w.subscribe(blindTo)
		must(t, w.watchDir(s, dir))
		must(t, w.armFile(s, f))
		subs, files = append(subs, s), append(files, f)
	}
	within(t, patience, "close", w.close)
	for i, s := range subs { // late, but harmless
		writeByte(t, files[i])
		w.releaseFile(s)
		if err := w.armFile(s, files[i]); err == nil {
			t.Error("armed after close")
		}
		w.unsubscribe(s)
	}
}

func TestWatcherManyGoroutines(t *testing.T) {
	w := startWatcher(t)
	dir := t.TempDir()
	shared := createFile(t, filepath.Join(dir, "shared"))
	var wg sync.WaitGroup
	for g := range 40 {
		wg.Go(func() {
			own, err := os.Create(filepath.Join(dir, strconv.Itoa(g)))
			if err != nil {
				t.Error(err)
				return
			}
			defer own.Close()
			for round := range 25 {
				f := own
				if round%3 == 0 {
					f = shared
				}
				s := w.subscribe(blindTo)
				err := errors.Join(w.watchDir(s, dir), w.armFile(s, f))
				if round%5 != 0 { // else leave in the middle
					_, writeErr := f.Write([]byte("x"))
					err = errors.Join(err, writeErr)
					select {
					case <-s.C:
					case <-time.After(patience):
						err = errors.Join(err, errors.New("not woken"))
					}
				}
				if round%2 == 0 {
					w.releaseFile(s)
				}
				w.unsubscribe(s)
				if err != nil {
					t.Errorf("goroutine %d, round %d: %v", g, round, err)
					return
				}
			}
		})
	}
	wg.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.byWD) != 0 || len(w.subs) != 0 {
		t.Errorf("left: %v, %v", w.byWD, w.subs)
	}
}
