package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

// ownLogFile is our own log, in --log_dir.
const ownLogFile = "cri-logproxy.log"

// openLog has our own log go to stderr, or to a file in dir if that is not "".
// glog ends the process when it cannot write, and knows no other writer than
// os.Stderr and its own files. So it writes into a pipe, which takes everything,
// and what comes out is written if it can be. finish returns when that is done;
// what is logged later is dropped.
func openLog(dir string) (finish func(), err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("our own log: %w", err)
	}
	signal.Ignore(syscall.SIGPIPE) // stderr may be a pipe that nobody reads any more
	stderr := os.Stderr
	out := &lossyWriter{open: func() (io.Writer, error) { return stderr, nil }}
	if dir != "" {
		out.open = func() (io.Writer, error) {
			return os.OpenFile(filepath.Join(dir, ownLogFile), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
		}
	}
	os.Stderr = w
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(out, r) // neither fails
	}()
	return func() {
		// Who logs now must not fail either: the pipe ends because /dev/null takes
		// its place.
		null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
		if err == nil {
			err = syscall.Dup3(int(null.Fd()), int(w.Fd()), syscall.O_CLOEXEC)
		}
		if err != nil {
			w.Close()
		}
		select {
		case <-done:
		case <-time.After(time.Second): // its disk may hang
		}
	}, nil
}

// lossyWriter drops what cannot be written, and says so in its place when it can
// write again. Its Write never fails.
type lossyWriter struct {
	open func() (io.Writer, error) // called until it succeeds

	w     io.Writer
	lost  int // lines
	cause error
}

func (l *lossyWriter) Write(b []byte) (int, error) {
	var notice []byte
	if l.lost > 0 {
		notice = fmt.Appendf(nil, "\ncri-logproxy: %d lines of this log are missing here: %v\n", l.lost, l.cause)
	}
	n, err := l.write(append(notice, b...))
	if n >= len(notice) {
		l.lost = 0
	}
	if err != nil {
		l.lost += max(1, bytes.Count(b[max(0, n-len(notice)):], []byte("\n")))
		l.cause = err
	}
	return len(b), nil
}

func (l *lossyWriter) write(b []byte) (n int, err error) {
	if l.w == nil {
		if l.w, err = l.open(); err != nil {
			l.w = nil
			return 0, err
		}
	}
	return l.w.Write(b)
}
