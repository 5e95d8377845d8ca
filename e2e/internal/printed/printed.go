// Package printed has what the tests and the demo keep and compare output with.
package printed

import (
	"bytes"
	"fmt"
	"sync"
)

// Buffer collects what somebody else writes. Its zero value is empty, and any
// goroutine may use it.
type Buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *Buffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

// String is all that was written so far.
func (l *Buffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// Diff shows where two texts part; it is empty if they do not.
func Diff(got, want string) string {
	if got == want {
		return ""
	}
	i := 0
	for i < min(len(got), len(want)) && got[i] == want[i] {
		i++
	}
	cut := func(s string) string { return s[max(0, i-40):min(len(s), i+80)] }
	return fmt.Sprintf("at byte %d (of %d, want %d):\n got …%q\nwant …%q", i, len(got), len(want), cut(got), cut(want))
}
