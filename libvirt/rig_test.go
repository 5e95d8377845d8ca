package libvirt

import (
	"errors"
	"runtime"
	"strings"
	"testing"
	"time"
)

const (
	// patience is what a test waits for something that must come.
	patience = 20 * time.Second
	// brief is the time-out of calls whose end is awaited.
	brief = 200 * time.Millisecond
)

const (
	ptyPort  = `<serial type='pty'><target port='0'/></serial>`
	bothPort = `<serial type='pty'><log file='/l' append='on'/><target port='0'/></serial>`
)

// newClient returns a client whose goroutines must be gone when the test ends.
func newClient(t *testing.T, socket string, timeout time.Duration) *Client {
	t.Helper()
	before := runtime.NumGoroutine()
	c := New(socket)
	if c.connector.timeout != 2*time.Second {
		t.Errorf("calls may take %v", c.connector.timeout)
	}
	c.connector.timeout = timeout
	t.Cleanup(func() {
		if err := errors.Join(c.Close(), c.Close()); err != nil {
			t.Error(err)
		}
		eventually(t, "no goroutine is left", func() bool { return runtime.NumGoroutine() <= before })
	})
	return c
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	timeout := time.After(patience)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-timeout:
			t.Fatalf("not after %v: %s", patience, what)
		case <-tick.C:
		}
	}
}

// wantUnavailable checks the error of a call and returns it.
func wantUnavailable(t *testing.T, err error, text string) {
	t.Helper()
	u, ok := errors.AsType[*UnavailableError](err)
	if !ok || !strings.Contains(err.Error(), text) || !strings.Contains(err.Error(), u.Socket) {
		t.Errorf("got %v, want an UnavailableError that says %q", err, text)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
