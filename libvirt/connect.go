package libvirt

import (
	"context"
	"sync"
	"time"
)

// The time between a failed attempt to connect and the next grows from
// firstPause to lastPause.
const (
	firstPause = 100 * time.Millisecond
	lastPause  = time.Second
)

// connector keeps the one connection that all calls share. It connects when a
// call needs it, never twice at a time.
type connector struct {
	places  []string        // sockets, to be tried one after the other
	timeout time.Duration   // of an attempt
	life    context.Context // ends with close
	end     context.CancelFunc

	mu      sync.Mutex
	conn    *conn         // the last one that was made; may be broken
	at      string        // the socket that was last tried, or all
	attempt *attempt      // waits for its time or goes on; nil: none
	dials   int           // how many attempts have begun to dial
	failed  error         // why the last one failed, if it did
	pause   time.Duration // between that and the next
	next    time.Time     // when that is
}

// attempt is an attempt to connect.
type attempt struct {
	done   chan struct{}
	number int // among all that dialled

	// What came of it, after done.
	conn *conn
	err  error
}

func newConnector(socket string, timeout time.Duration) *connector {
	places := usualPlaces
	if socket != "" {
		places = []string{socket}
	}
	life, end := context.WithCancel(context.Background())
	return &connector{places: places, timeout: timeout, life: life, end: end, at: anyOf(places)}
}

// get returns a connection, which may break at any time. It waits for one until
// ctx ends, or until an attempt has failed that began after the call.
func (c *connector) get(ctx context.Context) (*conn, error) {
	c.mu.Lock()
	before := c.dials
	c.mu.Unlock()
	for {
		conn, a := c.join()
		if conn != nil {
			return conn, nil
		}
		select {
		case <-a.done:
			if a.err == nil {
				return a.conn, nil
			}
			if a.number > before {
				return nil, c.unavailable(a.err)
			}
		case <-ctx.Done():
			return nil, c.tooLate(ctx)
		}
	}
}

// join returns the connection, or else the attempt to make one.
func (c *connector) join() (*conn, *attempt) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != nil && !c.conn.stream.isBroken() {
		return c.conn, nil
	}
	if c.attempt == nil {
		c.attempt = &attempt{done: make(chan struct{})}
		go c.connect(c.attempt, time.Until(c.next))
	}
	return nil, c.attempt
}

// connect makes an attempt after a while.
func (c *connector) connect(a *attempt, wait time.Duration) {
	select {
	case <-time.After(wait):
	case <-c.life.Done():
	}
	c.mu.Lock()
	c.dials++
	a.number = c.dials
	c.mu.Unlock()

	ctx, cancel := context.WithTimeout(c.life, c.timeout)
	defer cancel()
	nc, at, err := dial(ctx, c.places)
	c.mu.Lock()
	c.at = at
	c.mu.Unlock()
	if err == nil {
		a.conn, err = open(ctx, nc)
	}
	a.err = err

	c.mu.Lock()
	defer c.mu.Unlock()
	if c.life.Err() != nil {
		if a.err == nil {
			a.conn.stream.Close()
		}
		a.conn, a.err = nil, errClosed
	}
	c.attempt, c.conn, c.failed = nil, a.conn, a.err
	if a.err != nil {
		c.pause = min(max(2*c.pause, firstPause), lastPause)
	} else {
		c.pause = 0
	}
	c.next = time.Now().Add(c.pause)
	close(a.done)
}

// tooLate says why a call is over that got no answer before its ctx ended.
func (c *connector) tooLate(ctx context.Context) error {
	if ctx.Err() == context.Canceled {
		return ctx.Err()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if a := c.attempt; a != nil && a.number == 0 && c.failed != nil { // it only waits for its time
		return &UnavailableError{c.at, c.failed}
	}
	return &UnavailableError{c.at, context.DeadlineExceeded}
}

// unavailable says that libvirt could not be asked, and where it was tried.
func (c *connector) unavailable(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return &UnavailableError{c.at, err}
}

// close ends the connection and all calls. It may be called again.
func (c *connector) close() {
	c.end()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != nil {
		c.conn.stream.Close()
	}
}
