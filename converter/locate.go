package converter

import (
	"bytes"
	"io"
	"path/filepath"
	"strconv"
	"strings"
)

// locateTail is how much of the end of a container log must be found again.
const locateTail = 64 << 10

// locate finds where in the raw log a container log ends when nothing else is
// known: where its last records stand. The last such place counts; ok is false
// if there is none.
func (o *output) locate(raw *rawRest) (offset int64, split SplitState, ok bool) {
	from := max(0, o.size-locateTail)
	tail := make([]byte, o.size-from)
	if _, err := o.file.ReadAt(tail, from); err != nil && err != io.EOF {
		return 0, SplitState{}, false
	}
	first, content := o.encoder.Format.landmark(tail, from == 0)
	if content == nil {
		return 0, SplitState{}, false
	}
	for at := range occurrences(raw.reader(0), content) {
		r := newReplayer(o.encoder.Format, SplitState{}, raw.reader(at))
		if r.run(bytes.NewReader(tail[first:])) == nil {
			offset, split, ok = at+r.consumed, r.split, true
		}
	}
	return offset, split, ok
}

// logBefore opens the last log of an earlier attempt that is not empty, nil if
// there is none. kubelet calls it `<attempt>.log`.
func (w *worker) logBefore() *output {
	dir, base := filepath.Split(w.out.rel)
	n, err := strconv.ParseUint(strings.TrimSuffix(base, ".log"), 10, 32)
	for ; err == nil && n > 0; n-- {
		old := &output{root: w.cfg.LogRoot, rel: filepath.Join(dir, strconv.FormatUint(n-1, 10)+".log"), format: w.cfg.Format, open: w.cfg.openLog}
		if err = old.openFile(false); err != nil {
			break
		}
		if old.size > 0 {
			return old
		}
		old.close()
	}
	return nil
}

// landmark returns the longest record in log that begins a line, as its offset
// and its content; nil if all are empty. whole says that log is not cut off at
// its start.
func (f Format) landmark(log []byte, whole bool) (at int, content []byte) {
	lineBegins, offset := whole, 0
	for line := range bytes.Lines(log) {
		rec, err := f.decodeRecord(bytes.TrimSuffix(line, []byte("\n")))
		plain := err == nil && !rec.notice && !bytes.Contains(rec.content, []byte("\ufffd"))
		if plain && lineBegins && len(rec.content) > len(content) {
			at, content = offset, rec.content
		}
		lineBegins = err == nil && !rec.partial
		offset += len(line)
	}
	return at, content
}

// occurrences yields the offsets at which text stands in r.
func occurrences(r io.Reader, text []byte) func(func(int64) bool) {
	return func(yield func(int64) bool) {
		buf := make([]byte, 0, 1<<20+len(text))
		for base := int64(0); ; {
			n, err := io.ReadFull(r, buf[len(buf):cap(buf)])
			buf = buf[:len(buf)+n]
			for at := 0; ; {
				i := bytes.Index(buf[at:], text)
				if i < 0 {
					break
				}
				if !yield(base + int64(at+i)) {
					return
				}
				at += i + 1
			}
			if err != nil {
				return
			}
			keep := min(len(buf), len(text)-1)
			base += int64(len(buf) - keep)
			buf = append(buf[:0], buf[len(buf)-keep:]...)
		}
	}
}
