package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"
)

// lockedBuffer keeps what somebody else writes.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

var errBroken = errors.New("the output cannot be written")

// untilBroken passes writes on until one fails, and then calls broken.
type untilBroken struct {
	out    io.Writer
	broken func(error)
}

func (u *untilBroken) Write(b []byte) (int, error) {
	n, err := u.out.Write(b)
	if err != nil {
		u.broken(fmt.Errorf("%w: %w", errBroken, err))
	}
	return n, err
}

// writerFunc is a writer that cannot write in part.
type writerFunc func([]byte) error

func (f writerFunc) Write(b []byte) (int, error) {
	if err := f(b); err != nil {
		return 0, err
	}
	return len(b), nil
}
