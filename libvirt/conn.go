package libvirt

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"sync"

	golibvirt "github.com/digitalocean/go-libvirt"
	"github.com/digitalocean/go-libvirt/socket/dialers"
)

// conn is one connection, good for calls from any number of goroutines until it
// is broken.
type conn struct {
	*golibvirt.Libvirt
	stream *stream
}

// open begins to speak to libvirt, in the time that ctx gives. If it fails nc is
// closed.
func open(ctx context.Context, nc net.Conn) (*conn, error) {
	s := &stream{Conn: nc, broken: make(chan struct{})}
	c := &conn{golibvirt.NewWithDialer(dialers.NewAlreadyConnected(s)), s}
	closed := context.AfterFunc(ctx, func() { s.Close() })
	err := c.Connect()
	if !closed() {
		err = context.Cause(ctx)
	}
	if err != nil {
		s.Close()
		if s.err == errNotLibvirt {
			err = s.err
		}
		return nil, err
	}
	return c, nil
}

// stream is the socket beneath a connection. go-libvirt reads from it at all
// times, so it knows first that the connection is broken.
type stream struct {
	net.Conn
	greeted io.Reader // what is read from, once libvirt has answered

	breaking sync.Once
	broken   chan struct{} // closed when the connection is
	err      error         // why; read after broken
}

// Read reads what libvirt sends. An error is for good.
func (s *stream) Read(b []byte) (int, error) {
	if s.greeted == nil {
		if err := s.greet(); err != nil {
			s.fail(err)
			return 0, err
		}
	}
	n, err := s.greeted.Read(b)
	if err != nil {
		s.fail(err)
	}
	return n, err
}

// greet looks at how the first answer begins. go-libvirt trusts the length that
// it finds there, and panics at one that cannot be.
func (s *stream) greet() error {
	const (
		program      = 0x20008086 // of libvirt's remote protocol
		shortest     = 28         // length and header
		longest      = 32 << 20   // of libvirt's own limit
		lengthAndTag = 8
	)
	start := make([]byte, lengthAndTag)
	if _, err := io.ReadFull(s.Conn, start); err != nil {
		return err
	}
	length := binary.BigEndian.Uint32(start)
	if length < shortest || length > longest || binary.BigEndian.Uint32(start[4:]) != program {
		return errNotLibvirt
	}
	s.greeted = io.MultiReader(bytes.NewReader(start), s.Conn)
	return nil
}

// Close ends all calls on the connection. It may be called again.
func (s *stream) Close() error {
	s.fail(net.ErrClosed)
	return nil
}

func (s *stream) fail(err error) {
	s.breaking.Do(func() {
		s.err = err
		s.Conn.Close()
		close(s.broken)
	})
}

func (s *stream) isBroken() bool {
	select {
	case <-s.broken:
		return true
	default:
		return false
	}
}
