package libvirt

import (
	"context"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// TestBackOff calls a libvirt that is not there, over and over.
func TestBackOff(t *testing.T) {
	f := startFake(t, ptyPort)
	f.stop()
	c := newClient(t, f.socket, patience)
	began := time.Now()
	_, err := c.Serial(t.Context(), containerID)
	wantUnavailable(t, err, "there is no socket")

	// Who comes before the next attempt waits for it, and shares it.
	var calls sync.WaitGroup
	for range 50 {
		calls.Go(func() {
			_, err := c.Serial(t.Context(), containerID)
			wantUnavailable(t, err, "there is no socket")
		})
	}
	calls.Wait()
	c.connector.mu.Lock()
	// A slow machine may have had calls come after the second attempt.
	if dials, most := c.connector.dials, 2+int(time.Since(began)/(2*firstPause)); dials > most || time.Since(began) < firstPause {
		t.Errorf("dialled %d times in %v", dials, time.Since(began))
	}
	c.connector.mu.Unlock()

	// Who has no time for that is told why the attempt before it failed.
	short, cancel := context.WithTimeout(t.Context(), firstPause/20)
	defer cancel()
	_, err = c.Serial(short, containerID)
	wantUnavailable(t, err, "there is no socket")

	// The pause fails nobody.
	f.listen()
	_, err = c.Serial(t.Context(), containerID)
	must(t, err)
}

func TestPauses(t *testing.T) {
	c := newClient(t, filepath.Join(t.TempDir(), "absent"), patience).connector
	for _, want := range []time.Duration{100, 200, 400, 800, 1000, 1000} {
		a := &attempt{done: make(chan struct{})}
		c.connect(a, 0)
		if want *= time.Millisecond; c.pause != want || a.err == nil || time.Until(c.next) > want {
			t.Errorf("pause %v, want %v, %v", c.pause, want, a.err)
		}
	}
}

// TestClose closes the client while calls wait for an answer, for a connection,
// and for their time to connect.
func TestClose(t *testing.T) {
	f := startFake(t, ptyPort)
	c := newClient(t, f.socket, patience)
	for _, mute := range []uint32{procAuthList, procLookup} {
		f.do(func() {
			f.on = func(proc uint32) answer {
				if proc == mute {
					return hang
				}
				return reply
			}
		})
		c := newClient(t, f.socket, patience)
		done := make(chan error)
		go func() {
			_, err := c.Serial(t.Context(), containerID)
			done <- err
		}()
		eventually(t, "the call waits", func() bool { now, _ := f.connections(); return now > 0 })
		must(t, c.Close())
		wantUnavailable(t, <-done, "the client is closed")
		eventually(t, "the connection is closed", func() bool { now, _ := f.connections(); return now == 0 })
	}
	must(t, c.Close())
	_, err := c.Serial(t.Context(), containerID)
	wantUnavailable(t, err, "the client is closed")

	waiting := newClient(t, filepath.Join(t.TempDir(), "absent"), patience)
	waiting.connector.next = time.Now().Add(time.Hour)
	done := make(chan error)
	go func() {
		_, err := waiting.Serial(t.Context(), containerID)
		done <- err
	}()
	eventually(t, "the call waits", func() bool {
		waiting.connector.mu.Lock()
		defer waiting.connector.mu.Unlock()
		return waiting.connector.attempt != nil
	})
	must(t, waiting.Close())
	wantUnavailable(t, <-done, "the client is closed")
}
