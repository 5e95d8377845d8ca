package converter

import (
	"encoding/binary"
	"math/bits"
)

// block is how many bytes appendPlain copies and looks at in one go.
const block = 32

// appendPlain appends the records of the plain lines at the start of src and
// returns how many bytes of src they are. It is a short cut for what Next and
// Append say together, and stops at anything that is not a full line of at most
// the splitter's Max bytes without a NUL, short of the end of src, and when dst
// has room for no more than recordRoom.
//
// It copies whole blocks, also behind the end of a line: what comes next is
// written over it. So a byte is loaded once, to be copied and to be looked at,
// and no call is made for a line.
func (e *Encoder) appendPlain(dst, src []byte, s *Splitter) ([]byte, int) {
	d := dst[:cap(dst)]
	if s.Hole > 0 || s.Broken || len(d)-len(dst) <= recordRoom {
		return dst, 0
	}
	json, between := e.Format == DockerJSON, e.between
	ended, taken := len(dst), 0 // the whole records in d, and what they are of src
	to, at := ended+copy(d[ended:], e.first), 0
	for at-taken <= s.Max && len(src)-at > block && len(d)-to >= block+len(between) {
		from, into := (*[block + 1]byte)(src[at:]), (*[block + len(between)]byte)(d[to:])
		w0, w1 := binary.LittleEndian.Uint64(from[0:]), binary.LittleEndian.Uint64(from[8:])
		w2, w3 := binary.LittleEndian.Uint64(from[16:]), binary.LittleEndian.Uint64(from[24:])
		binary.LittleEndian.PutUint64(into[0:], w0)
		binary.LittleEndian.PutUint64(into[8:], w1)
		binary.LittleEndian.PutUint64(into[16:], w2)
		binary.LittleEndian.PutUint64(into[24:], w3)
		if json {
			w0, w1, w2, w3 = oddInJSON(w0), oddInJSON(w1), oddInJSON(w2), oddInJSON(w3)
		} else {
			w0, w1, w2, w3 = oddInCRI(w0), oddInCRI(w1), oddInCRI(w2), oddInCRI(w3)
		}
		var n int
		switch {
		case w0|w1|w2|w3 == 0:
			at, to = at+block, to+block
			continue
		case w0 != 0:
			n = bits.TrailingZeros64(w0) / 8
		case w1 != 0:
			n = 8 + bits.TrailingZeros64(w1)/8
		case w2 != 0:
			n = 16 + bits.TrailingZeros64(w2)/8
		default:
			n = 24 + bits.TrailingZeros64(w3)/8
		}
		at, to = at+n, to+n
		switch odd := from[n]; {
		case odd == '\n':
			at++
		case odd == '\r' && from[n+1] == '\n':
			at += 2
		case odd == 0:
			at = len(src) // a hole, perhaps
			continue
		case json:
			text, size := appendJSONRune(d[:to], src[at:])
			at, to = at+size, len(text)
			continue
		default:
			at, to = at+1, to+1
			continue
		}
		if at-taken > s.Max+1 {
			break
		}
		*(*[len(between)]byte)(into[n:]) = between
		ended, taken = to+e.end, at
		to += e.betweenLen
		if len(d)-ended <= recordRoom {
			break
		}
	}
	if taken > 0 {
		s.Open = false
	}
	return d[:ended], taken
}

const (
	ones  = 0x0101010101010101
	highs = 0x80 * ones
)

// oddInCRI has the high bit set in the bytes of w below 0x10, NUL and line ends
// among them, and perhaps, where a subtraction borrows, in some above the lowest
// of those.
func oddInCRI(w uint64) uint64 { return (w - 0x10*ones) &^ w & highs }

// oddInJSON is the same for what does not stand in a JSON string as it is: all
// but ASCII, control characters, quote and backslash.
func oddInJSON(w uint64) uint64 {
	quote, backslash := w^('"'*ones), w^('\\'*ones)
	return (w | (w - ' '*ones) | (quote - ones) | (backslash - ones)) & highs
}
