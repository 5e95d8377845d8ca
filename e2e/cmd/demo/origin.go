package main

import (
	"fmt"
	"io"
	"sync"
)

// origins shows two texts in one, by lines that say which text they are of. A
// line is shown when it has ended, or a step comes.
type origins struct {
	out    io.Writer
	titles [2]string

	mu    sync.Mutex
	texts [2]text
	shown [2]*string // what was shown of a line that had not ended; nil for nothing
	err   error      // of the last write
}

func newOrigins(out io.Writer, titles [2]string) *origins {
	o := &origins{out: out, titles: titles}
	for i := range o.texts {
		o.texts[i].ended = func(line string) {
			if o.shown[i] == nil || *o.shown[i] != line {
				o.show(i, line)
			}
			o.shown[i] = nil
		}
	}
	return o
}

func (o *origins) show(i int, line string) {
	if _, err := fmt.Fprintf(o.out, "%17s │ %s\n", o.titles[i], line); err != nil {
		o.err = err
	}
}

// flush shows the lines that have not ended.
func (o *origins) flush() {
	for i := range o.texts {
		line := string(o.texts[i].open)
		if line != "" && (o.shown[i] == nil || *o.shown[i] != line) {
			o.show(i, line)
			o.shown[i] = &line
		}
	}
}

func (o *origins) Write(step []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.flush()
	return o.out.Write(step)
}

func (o *origins) column(i int) io.Writer {
	return writerFunc(func(b []byte) error {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.texts[i].write(b)
		return o.err
	})
}

func (o *origins) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.flush()
}
