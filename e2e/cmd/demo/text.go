package main

import "strings"

// text makes readable lines of what a terminal is sent. Carriage return,
// backspace and tab move as they do there; escape sequences and other control
// characters go; what is not ASCII is a question mark, for who knows its width.
// Whatever a guest sends, the lines do no harm to the terminal that shows them.
type text struct {
	ended func(line string) // gets each line that has ended
	open  []byte            // the line that has not
	at    int               // the cursor in it
	in    sequence
}

// sequence is where in an escape sequence we are.
type sequence int

const (
	none    sequence = iota
	escape           // after ESC
	control          // after ESC [: until a letter or so
	command          // after ESC ] and the like: until BEL or ESC \
)

func (t *text) write(b []byte) {
	for _, c := range b {
		switch {
		case c == 0x1b:
			t.in = escape
		case t.in != none:
			t.in = t.in.next(c)
		case c == '\n':
			line := string(t.open)
			t.open, t.at = nil, 0
			t.ended(line)
		case c == '\r':
			t.at = 0
		case c == '\b':
			t.at = max(0, t.at-1)
		case c == '\t':
			for t.put(' '); t.at%8 != 0; {
				t.put(' ')
			}
		case c >= 0xc0:
			t.put('?') // the first byte of a rune, and the others are left out
		case c >= ' ' && c < 0x7f:
			t.put(c)
		}
	}
}

func (t *text) put(c byte) {
	if t.at < len(t.open) {
		t.open[t.at] = c
	} else {
		t.open = append(t.open, c)
	}
	t.at++
}

// next is where we are after c.
func (s sequence) next(c byte) sequence {
	switch s {
	case escape:
		switch {
		case c == '[':
			return control
		case strings.IndexByte("]PX^_", c) >= 0:
			return command
		case c >= ' ' && c <= '/':
			return escape
		}
	case control:
		if c < '@' || c > '~' {
			return control
		}
	case command:
		if c != '\a' {
			return command
		}
	}
	return none
}

// readable is one line as text shows it.
func readable(line string) string {
	t := text{ended: func(string) {}}
	t.write([]byte(strings.TrimRight(line, "\n")))
	return string(t.open)
}
