package converter

import (
	"errors"
	"fmt"
	"time"
)

// ErrReported marks an error that the converter has logged itself, and will not
// log again until it is over.
var ErrReported = errors.New("reported before")

// reported marks err so. Its text stays.
func reported(err error) error { return reportedError{err} }

type reportedError struct{ error }

func (e reportedError) Unwrap() []error { return []error{e.error, ErrReported} }

// notice writes a line in our own name.
func (w *worker) notice(text string) error {
	if err := w.breakLine(&buffers{}); err != nil {
		return err
	}
	w.out.setTime(time.Now())
	_, err := w.out.write(w.out.encoder.AppendNotice(nil, text))
	w.dirty = true
	return err
}

func (w *worker) logFailed(err error) (time.Duration, error) {
	return w.logFault.set(err), err
}

// logWorks notes that the container log can be written. Its readers are told if
// it could not be for long: the times of the records that follow are not those
// of their output.
func (w *worker) logWorks() {
	lasted, cause := w.logFault.clear()
	if lasted < tellAfter {
		return
	}
	text := fmt.Sprintf("this log could not be written for %v: %s; nothing is missing, but what follows came up to that much earlier", lasted.Round(time.Second), cause)
	if err := w.notice(text); err != nil {
		w.logFault.set(err)
	}
}

// rawFailed reports err also to those who read the container log: they miss
// something.
func (w *worker) rawFailed(err error) (time.Duration, error) {
	wait := w.rawFault.set(err)
	if text := fmt.Sprintf("the console output is missing from here on: %v", err); w.noticed != text {
		if w.notice(text) == nil {
			w.noticed = text
		}
	}
	return wait, err
}

// greet writes the notice that a Run begins each of its files with.
func (w *worker) greet() {
	if w.run.Notice == "" || w.out.size > 0 {
		return
	}
	if err := w.notice(w.run.Notice); err != nil {
		w.logFault.set(err)
	}
}

// text tells the readers of a log what they do not find in it.
func (g gap) text() string {
	text := "console output is missing here"
	if g.atLeast > 0 {
		text = fmt.Sprintf("%d bytes of console output or more are missing here", g.atLeast)
	}
	return text + ": the raw log was rotated away before it was read"
}
