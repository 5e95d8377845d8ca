package converter

import "bytes"

const (
	// DefaultMaxLine is the longest content of one record, in bytes. It is the
	// limit of containerd and CRI-O; kubelet's reader has none.
	DefaultMaxLine = 16384

	// MinHole is the length of a run of NUL bytes that counts as a hole: a
	// stretch of the raw log that nobody wrote, left by a writer without
	// O_APPEND after a truncation. Shorter runs are console output.
	MinHole = 1024
)

// Line is one piece of console output as it becomes one record.
type Line struct {
	// Content is the text without its line end. It is a part of the source
	// given to Splitter.Next and valid as long as that is.
	Content []byte
	// Partial says that the line goes on in the next Line.
	Partial bool
	// Hole, if not 0, is the number of NUL bytes that this Line stands for.
	// Content is nil then.
	Hole int64
}

// Flush says what Splitter.Next does with text that has no line end yet.
type Flush uint8

const (
	// FlushNone keeps it: more may come.
	FlushNone Flush = iota
	// FlushIdle gives it as a partial line, because a prompt must be seen. What
	// may turn out to belong to a line end or to a hole is kept back.
	FlushIdle
	// FlushEnd gives all of it as a partial line: nothing will follow.
	FlushEnd
)

// SplitState is all that a Splitter knows beyond the bytes that it has not
// consumed. It is part of a Checkpoint.
type SplitState struct {
	// Open says that the last line given was partial.
	Open bool `json:"open,omitempty"`
	// Broken says that an open line was ended by Break. A line end that
	// follows at once ends that same line and is swallowed.
	Broken bool `json:"broken,omitempty"`
	// Hole counts the NUL bytes consumed of a hole whose end is not seen yet.
	Hole int64 `json:"hole,omitempty"`
}

// Splitter cuts console bytes into lines. `\n` ends a line, the `\r` of `\r\n`
// goes with it, a lone `\r` stays; a line of more than Max bytes is cut into
// partial ones; a hole ends a line and becomes one Line of its own. However the
// input is cut into reads, the lines are the same.
//
// It holds no bytes: what Next does not consume, the caller presents again
// with more behind it. A source of MaxPending bytes is always enough for Next
// to consume something.
type Splitter struct {
	SplitState
	// Max is the longest Content, in bytes.
	Max int
	// WholeRunes keeps a cut from falling into a UTF-8 sequence, for encoders
	// that cannot write half a rune.
	WholeRunes bool
}

// MaxPending is the most that Next leaves unconsumed with FlushNone.
func (s *Splitter) MaxPending() int { return s.Max + MinHole + 2 }

// Next takes the next line from the start of src. It returns the line and the
// number of bytes of src that it consumed. ok is false when src holds no
// further line; n may be positive even then.
func (s *Splitter) Next(src []byte, flush Flush) (line Line, n int, ok bool) {
	if s.Broken {
		if n, ok = s.swallowLineEnd(src, flush); !ok {
			return Line{}, 0, false
		}
		src = src[n:]
	}
	line, k, ok := s.next(src, flush)
	return line, n + k, ok
}

func (s *Splitter) next(src []byte, flush Flush) (line Line, n int, ok bool) {
	if s.Hole > 0 {
		return s.inHole(src, flush)
	}
	// A full line is at most Max bytes, `\r` and `\n`.
	window := src[:min(len(src), s.Max+2)]
	newline := bytes.IndexByte(window, '\n')
	end := newline
	if end < 0 {
		end = len(window)
	}
	for at := bytes.IndexByte(window[:end], 0); at >= 0; {
		run := leadingNULs(src[at:], MinHole)
		switch {
		case run == MinHole:
			return s.beforeHole(src, at)
		case at+run == len(src) && flush != FlushEnd:
			// It may become a hole.
			if at > s.Max {
				return s.cut(src, s.Max)
			}
			return s.unfinished(src[:at], flush)
		}
		next := bytes.IndexByte(window[min(at+run, end):end], 0)
		if next < 0 {
			break
		}
		at += run + next
	}
	if newline >= 0 {
		content := window[:newline]
		if newline > 0 && content[newline-1] == '\r' {
			content = content[:newline-1]
		}
		if len(content) > s.Max {
			return s.cut(src, s.Max)
		}
		s.Open = false
		return Line{Content: content}, newline + 1, true
	}
	if len(window) > s.Max+1 || len(window) == s.Max+1 && (window[s.Max] != '\r' || flush == FlushEnd) {
		return s.cut(src, s.Max)
	}
	return s.unfinished(window, flush)
}

// Break ends an open line, for the caller that must not go on with it. It
// reports whether there was one; the caller then writes an empty full line.
func (s *Splitter) Break() bool {
	if !s.Open {
		return false
	}
	s.Open, s.Broken = false, true
	return true
}

// swallowLineEnd consumes the line end of a broken line, if one stands at the
// start of src. ok is false when that cannot be told yet.
func (s *Splitter) swallowLineEnd(src []byte, flush Flush) (n int, ok bool) {
	switch {
	case len(src) == 0, len(src) == 1 && src[0] == '\r' && flush != FlushEnd:
		return 0, false
	case src[0] == '\n':
		n = 1
	case len(src) > 1 && src[0] == '\r' && src[1] == '\n':
		n = 2
	}
	s.Broken = false
	return n, true
}

// unfinished gives text that has no line end, if flush asks for it.
func (s *Splitter) unfinished(text []byte, flush Flush) (Line, int, bool) {
	if flush == FlushNone {
		return Line{}, 0, false
	}
	if flush == FlushIdle && len(text) > 0 && text[len(text)-1] == '\r' {
		text = text[:len(text)-1] // a `\n` may follow
	}
	n := len(text)
	if flush == FlushIdle {
		n = s.wholeRunes(text, n)
	}
	if n == 0 {
		return Line{}, 0, false
	}
	s.Open = true
	return Line{Content: text[:n], Partial: true}, n, true
}

// cut gives the first n bytes of src as a partial line.
func (s *Splitter) cut(src []byte, n int) (Line, int, bool) {
	if whole := s.wholeRunes(src, n); whole > 0 {
		n = whole
	}
	s.Open = true
	return Line{Content: src[:n], Partial: true}, n, true
}

// beforeHole ends the line in front of a hole that begins at src[at].
func (s *Splitter) beforeHole(src []byte, at int) (Line, int, bool) {
	switch {
	case at > s.Max:
		return s.cut(src, s.Max)
	case at > 0 || s.Open:
		s.Open = false
		return Line{Content: src[:at]}, at, true
	}
	return s.inHole(src, FlushNone)
}

// inHole consumes NUL bytes, and gives the hole as a line once its end is seen.
func (s *Splitter) inHole(src []byte, flush Flush) (Line, int, bool) {
	n := leadingNULs(src, len(src))
	s.Hole += int64(n)
	if n == len(src) && flush != FlushEnd {
		return Line{}, n, false
	}
	hole := s.Hole
	s.Hole = 0
	return Line{Hole: hole}, n, true
}

// wholeRunes returns n, or less where src[:n] ends within a rune.
func (s *Splitter) wholeRunes(src []byte, n int) int {
	if !s.WholeRunes {
		return n
	}
	return n - incompleteRune(src[:n])
}

// leadingNULs counts the NUL bytes at the start of b, up to limit.
func leadingNULs(b []byte, limit int) int {
	b = b[:min(len(b), limit)]
	n := 0
	for len(b)-n >= len(zeros) && bytes.Equal(b[n:n+len(zeros)], zeros[:]) {
		n += len(zeros)
	}
	for n < len(b) && b[n] == 0 {
		n++
	}
	return n
}

var zeros [512]byte
