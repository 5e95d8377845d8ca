package converter

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
)

// tailLength is how many bytes before a position are kept, to tell a file that
// has grown from one that was truncated and has grown past the position again.
const tailLength = 64

// follower reads one raw log from where its position says, over truncation and
// replacement of the file. It is used by one goroutine; changed may be called
// from any.
type follower struct {
	root string
	// names are the paths below root that the raw log may have, the likeliest
	// first. The first that exists is followed.
	names   []string
	watcher *watcher
	sub     *subscription

	file *os.File
	pos  RawPosition

	mu   sync.Mutex // guards seen
	seen sighting
}

// sighting is what a follower saw when it last looked.
type sighting struct {
	file *os.File
	size int64
	at   fileID // of the file at the first name that exists
}

// newFollower makes a follower that goes on at pos if the file is still the
// same, else at its start. The caller must close it.
func newFollower(w *watcher, root string, names []string, pos RawPosition) *follower {
	pos.Tail = append(make([]byte, 0, tailLength), pos.Tail...)
	f := &follower{root: root, names: names, watcher: w, pos: pos}
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
		f.file = nil
	}
}

// open opens the raw log, if there is one. restarted says that it is not the
// file, or not the content, that the position was about.
func (f *follower) open() (restarted bool, err error) {
	for _, name := range f.names {
		file, err := openBeneath(f.root, name, os.O_RDONLY, 0)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return false, err
		}
		fi, err := file.Stat()
		if err != nil {
			file.Close()
			return false, err
		}
		f.file = file
		restarted = f.pos.Name != "" && f.pos.ID != idOf(fi)
		if f.pos.ID != idOf(fi) {
			f.pos = RawPosition{ID: idOf(fi), Tail: f.pos.Tail[:0]}
		}
		f.pos.Name = name
		return restarted, nil
	}
	return false, nil
}

// read reads what follows the position into buf, which must be longer than
// tailLength. data is empty at the end of the file, and if there is no file.
// restarted says that data begins a new content: the file was replaced or
// truncated.
func (f *follower) read(buf []byte) (data []byte, restarted bool, err error) {
	if f.file == nil {
		if restarted, err = f.open(); err != nil || f.file == nil {
			return nil, false, err
		}
	}
	for {
		tail := len(f.pos.Tail)
		n, err := f.file.ReadAt(buf, f.pos.Offset-int64(tail))
		if err != nil && err != io.EOF {
			return nil, restarted, err
		}
		if n < tail || !bytes.Equal(buf[:tail], f.pos.Tail) {
			f.pos.Offset, f.pos.Tail = 0, f.pos.Tail[:0]
			restarted = true
			continue
		}
		f.saw(f.file, f.pos.Offset+int64(n-tail))
		return buf[tail:n], restarted, nil
	}
}

// advance moves the position over the first n bytes of the data that read has
// put into buf.
func (f *follower) advance(buf []byte, n int) {
	end := len(f.pos.Tail) + n
	tail := buf[max(0, end-tailLength):end]
	f.pos.Tail = append(f.pos.Tail[:0], tail...)
	f.pos.Offset += int64(n)
}

// size returns the size of the raw log, 0 if there is none.
func (f *follower) size() int64 {
	if f.file == nil {
		return 0
	}
	fi, err := f.file.Stat()
	if err != nil {
		return 0
	}
	return fi.Size()
}

// replaced says that the raw log's name is another file's now. A name that is
// gone is no replacement: the writer may still have the file open.
func (f *follower) replaced() bool {
	at := f.lookUp()
	return f.file != nil && at != fileID{} && at != f.pos.ID
}

// lookUp returns the identity of the file that open would open.
func (f *follower) lookUp() fileID {
	for _, name := range f.names {
		if fi, err := os.Lstat(filepath.Join(f.root, name)); err == nil {
			return idOf(fi)
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
	dir := filepath.Join(f.root, filepath.Dir(f.names[0]))
	err := f.watcher.watchDir(f.sub, dir)
	if errors.Is(err, fs.ErrNotExist) {
		err = f.watcher.watchDir(f.sub, f.root) // until the directory is made
	}
	if f.file != nil {
		err = errors.Join(err, f.watcher.armFile(f.sub, f.file))
	}
	return err
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
