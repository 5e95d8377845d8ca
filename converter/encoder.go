package converter

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// Format is a log format that kubelet's reader knows. kubelet takes the format
// of a whole file from its first line (k8s.io/cri-client/pkg/logs), so a file
// never mixes them.
type Format uint8

const (
	// CRI is `<RFC 3339 time> <stream> <P|F> <content>`. It carries every byte.
	CRI Format = iota
	// DockerJSON is `{"log":…,"stream":…,"time":…}`. It cannot carry bytes that
	// are not UTF-8: each becomes U+FFFD.
	DockerJSON
)

// ParseFormat is the inverse of Format.String.
func ParseFormat(s string) (Format, error) {
	switch s {
	case "cri":
		return CRI, nil
	case "json":
		return DockerJSON, nil
	}
	return 0, fmt.Errorf("unknown log format %q: want cri or json", s)
}

func (f Format) String() string {
	if f == DockerJSON {
		return "json"
	}
	return "cri"
}

// timeLayout is RFC 3339 with all nine digits, so that records sort as text.
const timeLayout = "2006-01-02T15:04:05.000000000Z"

// noticePrefix begins the content of every record that the VM did not write.
// Such a record is on stream stderr, which a serial port does not have.
const noticePrefix = "[cri-logproxy] "

var oneLine = strings.NewReplacer("\r\n", " ", "\n", " ", "\r", " ")

// holeNotice is the notice that stands for a Line.Hole.
const holeNotice = "skipped %d NUL bytes: a hole in the raw log"

// Encoder writes records. All records have the time of the last SetTime.
// The zero value is not ready: call SetTime first.
type Encoder struct {
	Format Format

	full, partial, notice []byte // CRI: what stands before the content
	// JSON: what stands behind it, and before it always jsonHead.
	jsonFull, jsonPartial, jsonNotice []byte
	// For appendPlain: what stands before the content of a full record, and
	// between those of two, of which the first end bytes end a record.
	first           []byte
	between         [80]byte
	betweenLen, end int
}

const jsonHead = `{"log":"`

// SetTime sets the time of the records that follow.
func (e *Encoder) SetTime(t time.Time) {
	var buf [len(timeLayout)]byte
	stamp := t.UTC().AppendFormat(buf[:0], timeLayout)
	if e.Format == DockerJSON {
		e.jsonFull = join(e.jsonFull, `\n","stream":"stdout","time":"`, stamp, `"}`+"\n")
		e.jsonPartial = join(e.jsonPartial, `","stream":"stdout","time":"`, stamp, `"}`+"\n")
		e.jsonNotice = join(e.jsonNotice, `\n","stream":"stderr","time":"`, stamp, `"}`+"\n")
		e.first = append(e.first[:0], jsonHead...)
		e.end = copy(e.between[:], e.jsonFull)
		e.betweenLen = e.end + copy(e.between[e.end:], e.first)
		return
	}
	e.full = join(e.full, "", stamp, " stdout F ")
	e.partial = join(e.partial, "", stamp, " stdout P ")
	e.notice = join(e.notice, "", stamp, " stderr F ")
	e.first = append(e.first[:0], e.full...)
	e.end = copy(e.between[:], "\n")
	e.betweenLen = e.end + copy(e.between[e.end:], e.first)
}

// join puts a text together in the space of dst.
func join(dst []byte, before string, stamp []byte, after string) []byte {
	dst = append(dst[:0], before...)
	dst = append(dst, stamp...)
	return append(dst, after...)
}

// Append appends the record of a line to dst.
func (e *Encoder) Append(dst []byte, l Line) []byte {
	if l.Hole > 0 {
		return e.AppendNotice(dst, fmt.Sprintf(holeNotice, l.Hole))
	}
	if e.Format == DockerJSON {
		dst = append(dst, jsonHead...)
		dst = appendJSONText(dst, l.Content)
		if l.Partial {
			return append(dst, e.jsonPartial...)
		}
		return append(dst, e.jsonFull...)
	}
	if l.Partial {
		dst = append(dst, e.partial...)
	} else {
		dst = append(dst, e.full...)
	}
	dst = append(dst, l.Content...)
	return append(dst, '\n')
}

// AppendNotice appends a record that says something to the reader in our own
// name. A line end in text, such as libvirt's errors may have, becomes a space.
func (e *Encoder) AppendNotice(dst []byte, text string) []byte {
	text = oneLine.Replace(text)
	if e.Format == DockerJSON {
		dst = append(dst, jsonHead...)
		dst = appendJSONText(dst, []byte(noticePrefix+text))
		return append(dst, e.jsonNotice...)
	}
	dst = append(dst, e.notice...)
	dst = append(dst, noticePrefix...)
	dst = append(dst, text...)
	return append(dst, '\n')
}

// jsonEscapes are the ASCII characters as they stand in a JSON string.
var jsonEscapes = func() (table [utf8.RuneSelf]string) {
	for b := range table {
		table[b] = string(rune(b))
		if b < ' ' {
			table[b] = fmt.Sprintf(`\u%04x`, b)
		}
	}
	table['"'], table['\\'] = `\"`, `\\`
	table['\n'], table['\r'], table['\t'] = `\n`, `\r`, `\t`
	return table
}()

// appendJSONText appends s as the inside of a JSON string.
func appendJSONText(dst, s []byte) []byte {
	for len(s) > 0 {
		var n int
		dst, n = appendJSONRune(dst, s)
		s = s[n:]
	}
	return dst
}

// appendJSONRune appends the first character of s as it stands in a JSON string,
// and returns how many bytes of s it is. Bytes that are not UTF-8 become U+FFFD,
// one each, as encoding/json has it.
func appendJSONRune(dst, s []byte) ([]byte, int) {
	if s[0] < utf8.RuneSelf {
		return append(dst, jsonEscapes[s[0]]...), 1
	}
	r, size := utf8.DecodeRune(s)
	switch {
	case r == utf8.RuneError && size == 1:
		return append(dst, `\ufffd`...), size
	case r == '\u2028':
		return append(dst, `\u2028`...), size
	case r == '\u2029':
		return append(dst, `\u2029`...), size
	}
	return append(dst, s[:size]...), size
}

// incompleteRune returns how many bytes at the end of b are the beginning of a
// UTF-8 sequence that b does not complete.
func incompleteRune(b []byte) int {
	for n := 1; n <= min(len(b), utf8.UTFMax-1); n++ {
		if tail := b[len(b)-n:]; utf8.RuneStart(tail[0]) {
			if utf8.FullRune(tail) {
				return 0
			}
			return n
		}
	}
	return 0
}
