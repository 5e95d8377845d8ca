package main

import (
	"errors"
	"fmt"
	"io"
)

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
