package converter

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// tailLength is how many bytes before a position are kept, to tell a file that
// has grown from one that was truncated and has grown past the position again.
const tailLength = 64

// follower reads one raw log from where its position says, over truncation,
// rotation and replacement of the file. It is used by one goroutine; changed may
// be called from any.
type follower struct {
	root string
	// names are the paths below root that the raw log may have, the likeliest
	// first. The first that exists is followed.
	names []string
	dir   string // in which they are, for inotify
	// appends says that the VM's start leaves the content of the file alone.
	appends bool
	// fromOldest says that rotated files count even if nothing is known of
	// them.
	fromOldest bool
	watcher    *watcher
	sub        *subscription

	file *os.File
	pos  RawPosition

	// next is what rotation has put in the place of file, whose last line may
	// go on there: both are read as one, until the last byte of file is
	// consumed. rest is how many bytes of file the last read has given.
	next   *os.File
	nextID fileID
	rest   int
	end    int64            // how far the last read has seen, as size counts
	check  [tailLength]byte // for tailIsThere

	gap gap // in front of the position, if the last read said restarted

	mu   sync.Mutex // guards seen
	seen sighting
}

// gap is what a rotation has deleted before it was read.
type gap struct {
	found   bool
	atLeast int64 // bytes; how many files are gone nobody knows
}

// virtlogdSlack is by how much virtlogd may rotate before its limit, to end a
// file with a line (src/util/virrotatingfile.c).
const virtlogdSlack = 80

// missing is the gap between a position in a file that is gone and the oldest
// file that is left. Of a chain without a rotated file nothing can be told.
func (c chain) missing(root string, offset int64) gap {
	if len(c) < 2 {
		return gap{}
	}
	g := gap{found: true}
	if fi, err := os.Lstat(filepath.Join(root, c[0].name)); err == nil {
		g.atLeast = max(0, fi.Size()-virtlogdSlack-offset)
	}
	return g
}

// sighting is what a follower saw when it last looked.
type sighting struct {
	file *os.File
	size int64
	at   fileID // of the file at the first name that exists
}

// newFollower makes a follower of a Run that goes on at pos if the file is still
// the same, else at its start. The caller must close it.
func newFollower(w *watcher, root string, run Run, pos RawPosition) *follower {
	pos.Tail = append(make([]byte, 0, tailLength), pos.Tail...)
	f := &follower{root: root, names: run.RawNames, appends: run.RawAppends, watcher: w, pos: pos}
	if len(f.names) > 0 {
		f.dir = filepath.Join(root, filepath.Dir(f.names[0]))
	}
	f.sub = w.subscribe(f.changed)
	return f
}

func (f *follower) close() {
	f.watcher.unsubscribe(f.sub)
	f.closeFile()
}

func (f *follower) closeFile() {
	if f.file != nil {
		f.watcher.releaseFile(f.sub)
		f.saw(nil, 0)
		f.file.Close()
		f.file, f.end = nil, 0
	}
	if f.next != nil {
		f.next.Close()
		f.next = nil
	}
}

// open opens the raw log that the position is about, under whatever name a
// rotation has given it, else the first that there is. restarted says that it is
// not the one that the position was about.
func (f *follower) open() (restarted bool, err error) {
	for _, name := range f.names {
		chain := generations(f.root, name)
		if len(chain) == 0 {
			continue
		}
		at := chain.find(f.pos.ID)
		switch {
		case at >= 0:
		case f.pos.Name != "" || f.fromOldest:
			at = chain.after(f.pos.ID)
			if at == 0 && f.pos.Name == name { // else the position is in the log of another attempt
				f.gap = chain.missing(f.root, f.pos.Offset)
			}
		default:
			at = len(chain) - 1
		}
		before := f.pos
		if err := f.openAs(name, chain[at].name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
		return before.Name != "" && before.ID != f.pos.ID, nil
	}
	return false, nil
}

// openAs opens file, which is name or what a rotation has made of it.
func (f *follower) openAs(name, file string) error {
	opened, err := openBeneath(f.root, file, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	id, err := rawIDOf(opened)
	if err != nil {
		opened.Close()
		return err
	}
	f.file = opened
	if f.pos.ID != id {
		f.pos = RawPosition{ID: id, Tail: f.pos.Tail[:0]}
	}
	f.pos.Name = name
	return nil
}

// read reads what follows the position into buf, which must be longer than
// tailLength. data is empty at the end of the file, and if there is no file.
// restarted says that data begins a new content: the file was replaced or
// truncated.
func (f *follower) read(buf []byte) (data []byte, restarted bool, err error) {
	f.gap = gap{}
	if f.file == nil {
		if restarted, err = f.open(); err != nil || f.file == nil {
			return nil, false, err
		}
	}
	if f.pos.Stale != 0 {
		fi, err := f.file.Stat()
		if err != nil {
			return nil, restarted, err
		}
		if fi.ModTime().UnixNano() == f.pos.Stale {
			f.end = fi.Size()
			f.saw(f.file, f.end)
			return nil, restarted, nil // the VM has not started yet
		}
		f.pos.Stale = 0
		f.rewind()
		restarted = true
	}
	for {
		tail := copy(buf, f.pos.Tail)
		n, err := pread(f.file, buf[tail:], f.pos.Offset)
		if err != nil {
			return nil, restarted, err
		}
		// Only now: had the file been truncated before what was just read, the
		// tail would be gone.
		same, err := f.tailIsThere()
		if err != nil {
			return nil, restarted, err
		}
		if !same {
			f.rewind()
			restarted = true
			continue
		}
		f.rest = n
		size := f.pos.Offset + int64(n)
		if f.next != nil && tail+n < len(buf) {
			m, err := pread(f.next, buf[tail+n:], 0)
			if err != nil {
				return nil, restarted, err
			}
			n += m
			size = int64(m)
		}
		f.end = f.pos.Offset + int64(n)
		f.saw(f.latest(), size)
		return buf[tail : tail+n], restarted, nil
	}
}

// tailIsThere says that the bytes before the position are those that were read.
func (f *follower) tailIsThere() (bool, error) {
	tail := f.check[:len(f.pos.Tail)]
	n, err := pread(f.file, tail, f.pos.Offset-int64(len(tail)))
	return bytes.Equal(tail[:n], f.pos.Tail), err
}

// pread reads once: what several reads return may never have been in a file
// together. It returns 0 at the end.
func pread(f *os.File, b []byte, offset int64) (int, error) {
	for {
		n, err := unix.Pread(int(f.Fd()), b, offset)
		if !errors.Is(err, unix.EINTR) {
			return max(n, 0), err
		}
	}
}

// latest is the file that is being written to.
func (f *follower) latest() *os.File {
	if f.next != nil {
		return f.next
	}
	return f.file
}

// rewind goes to the start of the file.
func (f *follower) rewind() { f.pos.Offset, f.pos.Tail = 0, f.pos.Tail[:0] }

// waitForStart has the follower wait for the file to change, if there is one,
// and then read it from its start: what it holds is of the Run before, and the
// VM's start truncates it, perhaps to write the very same bytes again.
func (f *follower) waitForStart() error {
	if f.appends {
		return nil
	}
	if f.file == nil {
		if _, err := f.open(); err != nil || f.file == nil {
			return err
		}
	}
	fi, err := f.file.Stat()
	if err == nil && f.pos.Offset > 0 {
		f.pos.Stale = fi.ModTime().UnixNano()
	}
	return err
}

// skipHole moves the position over a stretch of the file that was never
// written, and returns how long it is. The position must be in a hole.
func (f *follower) skipHole() int64 {
	to, err := unix.Seek(int(f.file.Fd()), f.pos.Offset, unix.SEEK_DATA)
	if err != nil { // ENXIO: there is nothing behind it; or it cannot be told
		return 0
	}
	n := to - f.pos.Offset
	if n < tailLength {
		return 0
	}
	f.pos.Offset, f.pos.Tail = to, append(f.pos.Tail[:0], zeros[:tailLength]...)
	return n
}

// advance moves the position over the first n bytes of the data that read has
// put into buf. inNext says that it is in the next file now.
func (f *follower) advance(buf []byte, n int) (inNext bool) {
	end := len(f.pos.Tail) + n
	inNext = f.next != nil && n >= f.rest
	if inNext {
		f.watcher.releaseFile(f.sub)
		f.file.Close()
		f.file, f.next = f.next, nil
		f.end -= f.pos.Offset + int64(f.rest)
		f.pos.ID, f.pos.Offset = f.nextID, -int64(f.rest)
	}
	f.rest -= n
	f.pos.Offset += int64(n)
	length := int(min(f.pos.Offset, tailLength, int64(end)))
	f.pos.Tail = append(f.pos.Tail[:0], buf[end-length:end]...)
	return inNext
}

// size returns how many bytes there are from the start of the file that the
// position is in, 0 if there is none.
func (f *follower) size() (size int64) {
	for _, file := range [...]*os.File{f.file, f.next} {
		if file == nil {
			continue
		}
		var st unix.Stat_t
		if err := unix.Fstat(int(file.Fd()), &st); err == nil {
			size += st.Size
		}
	}
	return size
}

// successor is the file that follows the one being read.
type successor struct {
	name, file string
	id         fileID
	// continues says that the writer went on there in mid-line: a rotation.
	continues bool
	// gap is what may be missing between the two.
	gap gap
}

// successor returns what took the place of the file at the raw log's name. A
// name that is gone has no successor: the writer may still have the file open.
func (f *follower) successor() (next successor, ok bool) {
	if f.file == nil || f.next != nil {
		return successor{}, false
	}
	for _, name := range f.names {
		id, err := rawID(filepath.Join(f.root, name))
		if err != nil {
			continue
		}
		if id == f.pos.ID {
			return successor{}, false
		}
		if name != f.pos.Name {
			return successor{name: name, file: name, id: id}, true
		}
		chain := generations(f.root, name)
		if len(chain) == 0 {
			return successor{}, false
		}
		if i := chain.find(f.pos.ID); i >= 0 {
			if i+1 == len(chain) {
				return successor{}, false
			}
			return successor{name: name, file: chain[i+1].name, id: chain[i+1].id, continues: true}, true
		}
		i := chain.after(f.pos.ID)
		return successor{name: name, file: chain[i].name, id: chain[i].id, gap: gap{found: i == 0 && len(chain) > 1}}, true
	}
	return successor{}, false
}

// moveOn goes on in the successor: behind the rest of the file if it continues
// there, else at its start. moved is false if it is not where it was seen: there
// was a rotation in between.
func (f *follower) moveOn(to successor) (moved bool, err error) {
	opened, err := openBeneath(f.root, to.file, os.O_RDONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if id, err := rawIDOf(opened); err != nil || id != to.id {
		opened.Close()
		return false, err
	}
	if to.continues {
		f.watcher.releaseFile(f.sub)
		f.next, f.nextID = opened, to.id
		return true, nil
	}
	f.closeFile()
	f.file, f.pos = opened, RawPosition{Name: to.name, ID: to.id, Tail: f.pos.Tail[:0]}
	return true, nil
}

// lookUp returns the identity of the file at the first name that exists.
func (f *follower) lookUp() fileID {
	for _, name := range f.names {
		if id, err := rawID(filepath.Join(f.root, name)); err == nil {
			return id
		}
	}
	return fileID{}
}

// arm has sub.C receive at the next change. What happened before is not told:
// read once more afterwards.
func (f *follower) arm() error {
	if len(f.names) == 0 {
		return nil
	}
	err := f.watchDir(f.dir)
	if f.file != nil {
		err = errors.Join(err, f.watcher.armFile(f.sub, f.latest()))
	}
	return err
}

// watchDir watches the raw log's directory, or where it will be made.
func (f *follower) watchDir(dir string) error {
	for {
		err := f.watcher.watchDir(f.sub, dir)
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		err = f.watcher.watchDir(f.sub, f.root)
		if _, statErr := os.Stat(dir); err != nil || statErr != nil {
			return err
		}
		// It was made between the two: no event will tell.
	}
}

func (f *follower) saw(file *os.File, size int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seen = sighting{file: file, size: size, at: f.pos.ID}
}

// changed compares what is there with what was seen last.
func (f *follower) changed() bool {
	f.mu.Lock()
	seen := f.seen
	f.mu.Unlock()
	if at := f.lookUp(); at != (fileID{}) && (seen.file == nil || at != seen.at) {
		return true
	}
	if seen.file == nil {
		return false
	}
	fi, err := seen.file.Stat()
	return err == nil && fi.Size() != seen.size
}
