package converter

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// logMode is the permission of a new container log, containerd's.
const logMode = 0o640

// logFile is a container log as an *os.File is one. It is the seam where tests
// make a disk fail.
type logFile interface {
	io.Writer
	io.ReaderAt
	Stat() (fs.FileInfo, error)
	Truncate(size int64) error
	Close() error
}

// openLogFunc opens the container log rel below root for appending and reading.
type openLogFunc func(root, rel string, flag int) (logFile, error)

func openLog(root, rel string, flag int) (logFile, error) {
	return openBeneath(root, rel, flag|os.O_RDWR|os.O_APPEND, logMode)
}

// output appends records to a container log. Readers never see it shrink by a
// whole record, nor a record change.
type output struct {
	root, rel string
	format    Format // for new files
	open      openLogFunc

	file    logFile // nil: none yet, or it could not be opened
	id      fileID
	size    int64     // up to which all records are whole
	last    time.Time // of the last record
	encoder Encoder
	// openLine says that the last record found in the file was partial.
	openLine bool

	// rest is what a failed write left over, from the start of the record that
	// it tore; torn bytes of it are in the file.
	rest []byte
	torn int
}

func (o *output) path() string { return filepath.Join(o.root, o.rel) }

// openFile opens the log where it is, or with create makes it.
func (o *output) openFile(create bool) error {
	flag := 0
	if create {
		flag = os.O_CREATE
	}
	file, err := o.open(o.root, o.rel, flag)
	if err != nil {
		return err
	}
	fi, err := file.Stat()
	if err == nil {
		o.id, o.size, o.last, o.openLine = idOf(fi), fi.Size(), time.Time{}, false
		o.encoder = Encoder{Format: o.format}
		err = o.takeOver(file)
	}
	if err != nil {
		file.Close()
		return err
	}
	o.file = file
	return nil
}

// takeOver makes a file that has records ready for more: it cuts a torn last
// record, which no reader has taken (kubelet's waits for the `\n`), and goes on
// in the file's format and not before its time.
func (o *output) takeOver(file logFile) error {
	if o.size == 0 {
		return nil
	}
	tail := make([]byte, min(o.size, maxRecordRead))
	if _, err := file.ReadAt(tail, o.size-int64(len(tail))); err != nil && err != io.EOF {
		return err
	}
	whole := bytes.LastIndexByte(tail, '\n') + 1
	if cut := len(tail) - whole; cut > 0 {
		o.size -= int64(cut)
		if err := file.Truncate(o.size); err != nil {
			return err
		}
	}
	if whole == 0 {
		return nil
	}
	first := make([]byte, 1)
	if _, err := file.ReadAt(first, 0); err != nil {
		return err
	}
	o.encoder.Format = CRI
	if first[0] == '{' {
		o.encoder.Format = DockerJSON
	}
	line := tail[:whole-1]
	line = line[bytes.LastIndexByte(line, '\n')+1:]
	if rec, err := o.encoder.Format.decodeRecord(line); err == nil {
		o.last, o.openLine = rec.time, rec.partial
	}
	return nil
}

// setTime sets the time of the next records, which never goes back in a file.
func (o *output) setTime(now time.Time) {
	if now.Before(o.last) {
		now = o.last
	}
	o.last = now
	o.encoder.SetTime(now)
}

// write appends a batch of whole records. taken says that the batch is in the
// file or will be: the caller must not give it again. It is true after an error
// that came in mid-batch.
func (o *output) write(batch []byte) (taken bool, err error) {
	if err := o.flushRest(); err != nil {
		return false, err
	}
	if len(batch) == 0 {
		return true, nil
	}
	n, err := o.file.Write(batch)
	if err == nil {
		o.size += int64(n)
		return true, nil
	}
	if n == 0 {
		return false, err
	}
	o.keepRest(batch, n)
	return true, err
}

// flushRest writes what an earlier write could not.
func (o *output) flushRest() error {
	if o.file == nil {
		return &fs.PathError{Op: "write", Path: o.path(), Err: fs.ErrNotExist}
	}
	if len(o.rest) == 0 {
		return nil
	}
	n, err := o.file.Write(o.rest[o.torn:])
	if err != nil {
		o.keepRest(o.rest, o.torn+n)
		return err
	}
	o.size += int64(len(o.rest))
	o.rest, o.torn = nil, 0
	return nil
}

// keepRest notes that of batch only the first n bytes are in the file.
func (o *output) keepRest(batch []byte, n int) {
	whole := bytes.LastIndexByte(batch[:n], '\n') + 1
	o.size += int64(whole)
	o.rest, o.torn = bytes.Clone(batch[whole:]), n-whole
}

// reopen leaves a file that was renamed or deleted, and makes a new one at the
// path. It does nothing where the path still is our file.
func (o *output) reopen() error {
	if fi, err := os.Lstat(o.path()); err == nil && idOf(fi) == o.id {
		return nil
	}
	old := *o
	if err := o.openFile(true); err != nil {
		*o = old
		return err
	}
	var err error
	if old.torn > 0 {
		err = old.file.Truncate(old.size)
	}
	o.torn = 0 // of rest, nothing is in the new file
	if o.last.Before(old.last) {
		o.last = old.last
	}
	return errors.Join(err, old.file.Close())
}

func (o *output) close() error {
	if o.file == nil {
		return nil
	}
	err := o.file.Close()
	o.file = nil
	return err
}
