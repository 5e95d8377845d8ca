package guest

import (
	"fmt"
	"strings"
)

// LongLineLen is the length of the longest of the awkward lines, without its
// newline: more than one CRI record of 16 KiB can hold.
const LongLineLen = 20_000

// KnownHead returns the awkward lines as the guest writes them, up to the
// middle of the last one. The guest then pauses for a second and writes
// [KnownTail]. Both texts are files in the initramfs, so that guest and test
// cannot differ.
func KnownHead() string {
	return "LP-CRLF an explicit carriage return\r\n" +
		"LP-ANSI \x1b[31mred\x1b[0m \x1b[2K\x1b[1;1H tail\n" +
		"LP-UTF8 žluťoučký kůň 日本語 😀\n" +
		"LP-BADUTF8 \xff\xfe\x80 \xc3( end\n" +
		"LP-NUL a\x00b end\n" +
		"LP-TAB\tquote \" backslash \\ end\n" +
		"LP-PROGRESS 10%\rLP-PROGRESS 50%\rLP-PROGRESS 100%\n" +
		"\n" +
		longLine() + "\n" +
		"LP-PARTIAL no newline yet"
}

// KnownTail returns the end of the line that KnownHead leaves open.
func KnownTail() string {
	return " ... now it ends\n"
}

// longLine counts in groups of five digits, so that no piece of it looks like
// another.
func longLine() string {
	var line strings.Builder
	line.WriteString("LP-LONG ")
	for n := 10_000; line.Len() < LongLineLen; n++ {
		fmt.Fprint(&line, n)
	}
	return line.String()[:LongLineLen]
}
