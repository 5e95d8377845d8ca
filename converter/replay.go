package converter

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

// errDiverged says that a container log does not continue the raw log where it
// should.
var errDiverged = errors.New("the container log does not match the raw log")

// maxRecordRead bounds what replay takes for one record. Ours are shorter, also
// with every byte escaped.
const maxRecordRead = 256 << 10

// replayer finds out how much of a raw log a container log already carries: it
// reads the records and walks the raw bytes that they must have come from. The
// conversion is pure, so contents tell; times are not looked at.
type replayer struct {
	format Format
	split  SplitState // in: where the records begin; out: where they end
	// consumed counts raw bytes; matched counts bytes of records.
	consumed, matched int64
	last              record
	raw               *bufio.Reader
}

// rawWindow is the read-ahead of a replay: more than any record is long.
const rawWindow = 2 * maxRecordRead

func newReplayer(format Format, split SplitState, raw io.Reader) *replayer {
	return &replayer{format: format, split: split, raw: bufio.NewReaderSize(raw, rawWindow)}
}

// run matches the records of log, from its start to its last complete one.
// errDiverged says that they do not fit; what was matched before stands.
func (r *replayer) run(log io.Reader) error {
	records := bufio.NewReaderSize(log, maxRecordRead)
	for {
		line, err := records.ReadSlice('\n')
		if err == io.EOF {
			return nil // an incomplete record is not one
		}
		if err == bufio.ErrBufferFull {
			return errDiverged
		}
		if err != nil {
			return err
		}
		rec, err := r.format.decodeRecord(line[:len(line)-1])
		if err != nil {
			return errDiverged
		}
		if err := r.record(rec); err != nil {
			return err
		}
		r.matched += int64(len(line))
		rec.content = nil
		r.last = rec
	}
}

// record walks over the raw bytes of one record.
func (r *replayer) record(rec record) error {
	if rec.notice {
		return r.notice(rec.content)
	}
	raw, err := r.raw.Peek(len(rec.content) + 2)
	if err != nil && err != io.EOF {
		return err
	}
	if r.split.Broken {
		n := lineEnd(raw)
		if n > 0 {
			r.discard(n)
			r.split.Broken = false
			return r.record(rec)
		}
	}
	n, ok := r.format.match(raw, rec.content)
	if !ok {
		return errDiverged
	}
	if rec.partial {
		r.discard(n)
		r.split = SplitState{Open: true}
		return nil
	}
	rest := raw[n:]
	switch {
	case lineEnd(rest) > 0:
		r.discard(n + lineEnd(rest))
		r.split = SplitState{}
	case len(rest) > 0 && rest[0] == 0: // a hole ended the line
		r.discard(n)
		r.split = SplitState{}
	case len(rec.content) == 0 && r.split.Open: // Splitter.Break
		r.split = SplitState{Broken: true}
	default:
		return errDiverged
	}
	return nil
}

// notice walks over the hole that a notice stands for. Other notices have no
// raw bytes.
func (r *replayer) notice(content []byte) error {
	var hole int64
	if _, err := fmt.Sscanf(string(content), noticePrefix+holeNotice, &hole); err != nil {
		return nil
	}
	if r.split.Broken {
		raw, err := r.raw.Peek(2)
		if err != nil && err != io.EOF {
			return err
		}
		r.discard(lineEnd(raw))
	}
	for left := hole - r.split.Hole; left > 0; {
		raw, err := r.raw.Peek(int(min(left, rawWindow)))
		if err != nil && err != io.EOF {
			return err
		}
		n := leadingNULs(raw, len(raw))
		if n == 0 {
			return errDiverged
		}
		r.discard(n)
		left -= int64(n)
	}
	r.split = SplitState{}
	return nil
}

func (r *replayer) discard(n int) {
	n, _ = r.raw.Discard(n) // peeked before: it cannot fail
	r.consumed += int64(n)
}

// lineEnd returns the length of the line end at the start of b, 0 if none.
func lineEnd(b []byte) int {
	switch {
	case len(b) > 0 && b[0] == '\n':
		return 1
	case len(b) > 1 && b[0] == '\r' && b[1] == '\n':
		return 2
	}
	return 0
}

// match returns how many bytes at the start of raw become content in this
// format.
func (f Format) match(raw, content []byte) (n int, ok bool) {
	if f == CRI {
		return len(content), bytes.HasPrefix(raw, content)
	}
	for len(content) > 0 {
		r, size := utf8.DecodeRune(content)
		rawRune, rawSize := utf8.DecodeRune(raw[n:])
		if r != rawRune || rawSize == 0 {
			return 0, false
		}
		content = content[size:]
		n += rawSize
	}
	return n, true
}
