package converter

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"unicode/utf8"
)

// appendPlain appends the records of the whole, plain lines at the start of src
// and returns how many bytes of src they are. It is a short cut for what Next
// and Append say together, and stops at anything that is not a full line of at
// most the splitter's Max bytes without a NUL, or when dst has room bytes or more.
func (e *Encoder) appendPlain(dst, src []byte, s *Splitter, room int) ([]byte, int) {
	if s.Hole > 0 || s.Broken {
		return dst, 0
	}
	end := bytes.IndexByte(src, 0)
	if end < 0 {
		end = len(src)
	}
	n := 0
	dst = append(dst, e.first...)
	for len(dst) < room {
		newline := bytes.IndexByte(src[n:end], '\n')
		if newline < 0 || newline > s.Max {
			break
		}
		content := src[n : n+newline]
		if newline > 0 && content[newline-1] == '\r' {
			content = content[:newline-1]
		}
		if e.Format == DockerJSON {
			dst = appendJSONText(dst, content)
		} else {
			dst = append(dst, content...)
		}
		dst = append(dst, e.between...)
		n += newline + 1
	}
	if n > 0 {
		s.Open = false
	}
	return dst[:len(dst)-len(e.first)], n
}

// plainJSON returns how many bytes at the start of s stand in a JSON string as
// they are: ASCII but for control characters, quote and backslash.
func plainJSON(s []byte) (n int) {
	for ; len(s)-n >= 32; n += 32 {
		b := s[n : n+32]
		if oddBytes(binary.LittleEndian.Uint64(b))|oddBytes(binary.LittleEndian.Uint64(b[8:]))|
			oddBytes(binary.LittleEndian.Uint64(b[16:]))|oddBytes(binary.LittleEndian.Uint64(b[24:])) != 0 {
			break
		}
	}
	for ; len(s)-n >= 8; n += 8 {
		if odd := oddBytes(binary.LittleEndian.Uint64(s[n:])); odd != 0 {
			return n + bits.TrailingZeros64(odd)/8
		}
	}
	for ; n < len(s); n++ {
		if b := s[n]; b < ' ' || b >= utf8.RuneSelf || b == '"' || b == '\\' {
			break
		}
	}
	return n
}

// oddBytes has the high bit set in the bytes of w that are not plain, and
// perhaps, where a subtraction borrows, in some above the lowest of those.
func oddBytes(w uint64) uint64 {
	const (
		ones  = 0x0101010101010101
		highs = 0x80 * ones
	)
	quote, backslash := w^('"'*ones), w^('\\'*ones)
	return (w | (w - ' '*ones) | (quote - ones) | (backslash - ones)) & highs
}
