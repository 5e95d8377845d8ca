package converter

import (
	"bytes"
	"encoding/binary"
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
			dst = append(dst, jsonHead...)
			dst = appendJSONText(dst, content)
			dst = append(dst, e.jsonFull...)
		} else {
			dst = append(dst, e.full...)
			dst = append(dst, content...)
			dst = append(dst, '\n')
		}
		n += newline + 1
	}
	if n > 0 {
		s.Open = false
	}
	return dst, n
}

// plainJSON returns how many bytes at the start of s stand in a JSON string as
// they are, looking at eight bytes at a time. It may return less than there are,
// but not 0 where len(s) >= 8 and the first eight are plain.
func plainJSON(s []byte) int {
	const (
		ones  = 0x0101010101010101
		highs = 0x80 * ones
	)
	n := 0
	for ; len(s)-n >= 8; n += 8 {
		w := binary.LittleEndian.Uint64(s[n:])
		// A byte is not plain if it is below ' ', `"`, `\`, DEL or not ASCII.
		// Each term has the high bit set in the bytes that it is about (and
		// perhaps in some above them: then one looks twice).
		quote, backslash, del := w^('"'*ones), w^('\\'*ones), w^(0x7f*ones)
		odd := w | (w - ' '*ones) | (quote - ones) | (backslash - ones) | (del - ones)
		if odd&highs != 0 {
			break
		}
	}
	return n
}
