package libvirt

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// Procedures of libvirt's remote protocol.
const (
	procOpen     = 1
	procDefine   = 11
	procXML      = 14
	procLookup   = 24
	procAuthList = 66
)

// fakeLibvirt speaks enough of libvirt's protocol to have one domain.
type fakeLibvirt struct {
	t      *testing.T
	socket string
	uuid   string // of the domain, 16 bytes

	mu      sync.Mutex
	xml     string // of the domain; "" if there is none
	active  bool
	refuses bool     // to define
	ignores bool     // what it shall define
	flags   []uint32 // of the calls for XML
	defined int
	on      func(proc uint32) answer // may be nil
	conns   map[net.Conn]bool
	made    int // connections
	l       net.Listener
}

// answer is what the fake does with a call.
type answer int

const (
	reply  answer = iota
	hang          // for good: do nothing more on this connection
	hangUp        // when the call is carried out
)

const containerID = "virtlet.cloud__87a6f0c1-5b1c-5f0f-9d6e-6cbd0ac1a2b3"

// startFake starts a libvirt whose domain has that serial port.
func startFake(t *testing.T, serial string) *fakeLibvirt {
	t.Helper()
	uuid, err := domainUUID(containerID)
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeLibvirt{
		t:      t,
		socket: filepath.Join(t.TempDir(), "sock"),
		uuid:   string(uuid[:]),
		xml:    withSerial(serial),
		conns:  make(map[net.Conn]bool),
	}
	f.listen()
	return f
}

// listen starts it, until the test ends.
func (f *fakeLibvirt) listen() {
	l, err := net.Listen("unix", f.socket)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(f.stop)
	f.mu.Lock()
	f.l = l
	f.mu.Unlock()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			f.mu.Lock()
			f.conns[conn] = true
			f.made++
			f.mu.Unlock()
			go f.serve(conn)
		}
	}()
}

// stop goes away, as a libvirtd that is killed.
func (f *fakeLibvirt) stop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.l.Close()
	for conn := range f.conns {
		conn.Close()
	}
}

// do changes the fake.
func (f *fakeLibvirt) do(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

// connections returns how many there are, and how many there ever were.
func (f *fakeLibvirt) connections() (now, ever int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.conns), f.made
}

// definitions returns how often it was asked to define the domain.
func (f *fakeLibvirt) definitions() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.defined
}

func (f *fakeLibvirt) serve(conn net.Conn) {
	defer func() {
		f.do(func() { delete(f.conns, conn) })
		conn.Close()
	}()
	hung := false
	for {
		var h struct{ Length, Program, Version, Proc, Type, Serial, Status uint32 }
		if err := binary.Read(conn, binary.BigEndian, &h); err != nil {
			return
		}
		args := make([]byte, h.Length-28)
		if _, err := io.ReadFull(conn, args); err != nil {
			return
		}
		if hung {
			continue
		}
		body, failed, a := f.handle(h.Proc, args)
		if a == hang {
			hung = true
			continue
		}
		if a == hangUp {
			return
		}
		h.Type, h.Status, h.Length = 1, 0, uint32(28+len(body))
		if failed {
			h.Status = 1
		}
		var out bytes.Buffer
		binary.Write(&out, binary.BigEndian, h)
		out.Write(body)
		conn.Write(out.Bytes())
	}
}

// handle carries a call out, even one that the fake hangs up on.
func (f *fakeLibvirt) handle(proc uint32, args []byte) (body []byte, failed bool, a answer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.on != nil {
		a = f.on(proc)
	}
	if a == hang {
		return nil, false, a
	}
	domain := xdr("vm", raw(f.uuid), uint32(0xffffffff))
	if f.active {
		domain = xdr("vm", raw(f.uuid), uint32(3))
	}
	switch proc {
	case procOpen:
		return nil, false, a
	case procAuthList:
		return xdr(uint32(1), uint32(0)), false, a
	case procLookup:
		if f.xml != "" && string(args) == f.uuid {
			return domain, false, a
		}
		return xdrError(42, "Domain not found"), true, a
	case procXML:
		f.flags = append(f.flags, binary.BigEndian.Uint32(args[len(args)-4:]))
		text := f.xml
		if f.active {
			text = strings.Replace(text, "<domain ", "<domain id='3' ", 1)
		}
		return xdr(text), false, a
	case procDefine:
		f.defined++
		if f.refuses {
			return xdrError(67, "unsupported configuration"), true, a
		}
		if f.ignores {
			return domain, false, a
		}
		f.xml = string(args[4 : 4+binary.BigEndian.Uint32(args)])
		return domain, false, a
	}
	return xdrError(1, "what?"), true, a
}

// raw is a text of known length.
type raw string

func xdr(values ...any) []byte {
	var b bytes.Buffer
	for _, v := range values {
		switch v := v.(type) {
		case uint32:
			binary.Write(&b, binary.BigEndian, v)
		case raw:
			b.WriteString(string(v))
		case string:
			binary.Write(&b, binary.BigEndian, uint32(len(v)))
			b.WriteString(v)
			b.Write(make([]byte, (4-len(v)%4)%4))
		}
	}
	return b.Bytes()
}

// xdrError is what go-libvirt reads of an error: code, domain, message, level.
func xdrError(code uint32, message string) []byte {
	return xdr(code, uint32(0), uint32(1), message, uint32(2))
}
