package logmap

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/golang/glog"

	"github.com/cri-logproxy/cri-logproxy/converter/statefile"
)

const (
	// writeTimeout bounds how long a caller waits for the disk.
	writeTimeout = 2 * time.Second
	// retryInterval is the time between two tries to write what could not be
	// written.
	retryInterval = 5 * time.Second
)

// writer brings records to disk, in one goroutine. A disk that hangs keeps a
// caller no longer than writeTimeout, and what fails is tried again.
type writer struct {
	quit chan struct{}
	done chan struct{}
	wake chan struct{}

	mu     sync.Mutex
	queue  []*job // at most one for each path
	failed []*job // the same, disjoint from queue
}

// job is the last wanted content of one file.
type job struct {
	path    string
	value   any // nil: no file
	waiters []chan error
}

func startWriter() *writer {
	w := &writer{quit: make(chan struct{}), done: make(chan struct{}), wake: make(chan struct{}, 1)}
	go w.loop()
	return w
}

// close tries once more what is left, for writeTimeout at the most.
func (w *writer) close() error {
	close(w.quit)
	select {
	case <-w.done:
		return w.left()
	case <-time.After(writeTimeout):
		return fmt.Errorf("the disk of the state directory has not answered within %v", writeTimeout)
	}
}

func (w *writer) left() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n := len(w.queue) + len(w.failed); n > 0 {
		return fmt.Errorf("%d records could not be written", n)
	}
	return nil
}

// enqueue has value be the content of the file at path. It does not wait.
func (w *writer) enqueue(path string, value any) <-chan error {
	ch := make(chan error, 1)
	same := func(j *job) bool { return j.path == path }
	w.mu.Lock()
	w.failed = slices.DeleteFunc(w.failed, same)
	if i := slices.IndexFunc(w.queue, same); i >= 0 {
		w.queue[i].value = value
		w.queue[i].waiters = append(w.queue[i].waiters, ch)
	} else {
		w.queue = append(w.queue, &job{path: path, value: value, waiters: []chan error{ch}})
	}
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
	return ch
}

// await waits for what enqueue has promised.
func await(ch <-chan error) error {
	timer := time.NewTimer(writeTimeout)
	defer timer.Stop()
	select {
	case err := <-ch:
		return err
	case <-timer.C:
		return fmt.Errorf("the disk of the state directory has not answered within %v", writeTimeout)
	}
}

func (w *writer) loop() {
	defer close(w.done)
	retry := time.NewTicker(retryInterval)
	defer retry.Stop()
	for {
		w.writeQueue()
		select {
		case <-w.wake:
		case <-retry.C:
			w.requeue()
		case <-w.quit:
			w.requeue()
			w.writeQueue()
			return
		}
	}
}

// requeue has what failed tried again.
func (w *writer) requeue() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.queue = append(w.queue, w.failed...)
	w.failed = nil
}

func (w *writer) writeQueue() {
	for {
		w.mu.Lock()
		if len(w.queue) == 0 {
			w.mu.Unlock()
			return
		}
		j := w.queue[0]
		w.queue = w.queue[1:]
		w.mu.Unlock()

		err := j.write()

		w.mu.Lock()
		if err != nil && !slices.ContainsFunc(w.queue, func(other *job) bool { return other.path == j.path }) {
			w.failed = append(w.failed, &job{path: j.path, value: j.value})
		}
		again := len(j.waiters) == 0
		w.mu.Unlock()
		if again && err == nil {
			glog.Infof("%s is written, at last", j.path)
		}
		for _, ch := range j.waiters {
			ch <- err
		}
	}
}

func (j *job) write() error {
	if j.value == nil {
		return statefile.Remove(j.path)
	}
	return statefile.Write(j.path, version, j.value, true)
}
