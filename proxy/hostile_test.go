package proxy_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-logproxy/cri-logproxy/proxy/proxytest"
)

// hostileClients are clients that do to a connection what no client does. They
// return at once; the connection is closed when the test ends.
var hostileClients = map[string]func(t *testing.T, c net.Conn){
	"says nothing": func(*testing.T, net.Conn) {},
	"random bytes": func(_ *testing.T, c net.Conn) {
		b := make([]byte, 64<<10)
		_, _ = rand.Read(b)
		_, _ = c.Write(b) // it may be cut off meanwhile
	},
	"HTTP/1": func(t *testing.T, c net.Conn) {
		write(t, c, []byte("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"))
	},
	"preface, then nothing": func(t *testing.T, c net.Conn) { write(t, c, []byte(preface)) },
	"half a frame":          func(t *testing.T, c net.Conn) { write(t, c, hello[:len(hello)-3]) },
	"half a request": func(t *testing.T, c net.Conn) {
		write(t, c, hello, frameOf(frameHeaders, endHeaders, 1, request("Version")), []byte{0, 0, 9, frameData, 0, 0})
	},
	"a frame of 16 MB": func(_ *testing.T, c net.Conn) {
		_, _ = c.Write(append(bytes.Clone(hello), 0xff, 0xff, 0xff, frameData, 0, 0, 0, 0, 1))
		_, _ = c.Write(make([]byte, 1<<20))
	},
	"header without end": func(t *testing.T, c net.Conn) {
		write(t, c, hello, frameOf(frameHeaders, 0, 1, request("Version")))
		endless(t, c, frameOf(frameContinuation, 0, 1, hpack("x", strings.Repeat("x", 100))))
	},
	"requests that are not CRI": func(t *testing.T, c net.Conn) {
		write(t, c, hello)
		for id := uint32(1); id < 100; id += 2 {
			write(t, c, frameOf(frameHeaders, endHeaders, id, request("StartContainer")), frameOf(frameData, endStream, id, []byte("\x00\x00\x00\x00\x03\xff\xff\xff")))
		}
	},
	"streams begun and dropped": func(_ *testing.T, c net.Conn) {
		go func() { _, _ = io.Copy(io.Discard, c) }() // ends with the connection
		_, _ = c.Write(hello)
		for id := uint32(1); id < 2000; id += 2 {
			_, _ = c.Write(append(frameOf(frameHeaders, endHeaders, id, request("GetContainerEvents")), frameOf(frameReset, 0, id, make([]byte, 4))...))
		}
	},
	"streams begun and left": func(t *testing.T, c net.Conn) {
		write(t, c, hello)
		for id := uint32(1); id < 600; id += 2 {
			method := []string{"Version", "GetContainerEvents"}[id/2%2]
			write(t, c, frameOf(frameHeaders, endHeaders, id, request(method)))
		}
	},
	"pings, and no answer is read": func(t *testing.T, c net.Conn) {
		write(t, c, hello)
		endless(t, c, frameOf(framePing, 0, 0, make([]byte, 8)))
	},
	"calls, and no answer is read": func(t *testing.T, c net.Conn) {
		// Windows that are no hindrance: the socket is what gets full.
		write(t, c, []byte(preface), frameOf(frameSettings, 0, 0, []byte{0, settingWindow, 0x7f, 0xff, 0xff, 0xff}),
			frameOf(frameWindowUpdate, 0, 0, []byte{0x7f, 0, 0, 0}))
		for id := uint32(1); id < 400; id += 2 {
			call := append(frameOf(frameHeaders, endHeaders, id, request("Status")), frameOf(frameData, endStream, id, make([]byte, 5))...)
			if _, err := c.Write(call); err != nil {
				return // it is not read either
			}
		}
	},
}

// TestHostileClients checks that the proxy goes on serving others, says
// little, stops in time and keeps nothing of such clients.
func TestHostileClients(t *testing.T) {
	logged := captureLog(t)
	nothingLeft := leftovers(t)
	t.Run("all at once", func(t *testing.T) {
		r := newRig(t, nil, nil)
		for name, hostile := range hostileClients {
			for range 3 {
				c, err := net.Dial("unix", r.socket())
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { c.Close() })
				if err := c.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
					t.Fatal(err)
				}
				hostile(t, c)
			}
			serves(t, r, name)
		}
		stopsInTime(t, r)
	})
	nothingLeft()
	// And who the runtime is, and that they were cut off.
	if s := logged(); strings.Count(s, "\n") != 3 || !strings.Contains(s, "StartContainer: the request cannot be parsed") {
		t.Errorf("this is logged: %.2000s", s)
	}
}

// TestHugeMetadata checks that a call with more metadata than anybody takes is
// refused as it is without the proxy, and one with much passes.
func TestHugeMetadata(t *testing.T) {
	r := newRig(t, nil, nil)
	direct, err := proxytest.Dial(r.backend.Socket())
	if err != nil {
		t.Fatal(err)
	}
	defer direct.Close()
	const size = 64 << 10
	for _, count := range []int{16, 272} { // 1 and 17 MB
		ctx := metadata.NewOutgoingContext(t.Context(), metadata.MD{"huge": slices.Repeat([]string{strings.Repeat("x", size)}, count)})
		_, want := runtimeapi.NewRuntimeServiceClient(direct).Version(ctx, &runtimeapi.VersionRequest{})
		_, got := r.client.Version(ctx, &runtimeapi.VersionRequest{})
		if status.Code(got) != status.Code(want) || status.Convert(got).Message() != status.Convert(want).Message() {
			t.Errorf("%d kB: got %.200q, want %.200q", count*size>>10, got, want)
		}
	}
	serves(t, r, "huge metadata")
}

// TestClientThatNeverReads checks that a stream which nobody reads holds the
// runtime back, instead of filling the proxy's memory.
func TestClientThatNeverReads(t *testing.T) {
	const size, most = 64 << 10, 16 << 20
	r := newRig(t, nil, nil)
	var sent atomic.Int64
	msg := make([]byte, size)
	r.backend.Handle("StreamContainers", func(s *proxytest.Stream) error {
		for {
			if err := s.Send(msg); err != nil {
				return err
			}
			sent.Add(size)
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if _, err := r.client.StreamContainers(ctx, &runtimeapi.StreamContainersRequest{}); err != nil {
		t.Fatal(err)
	}
	for still, before := 0, int64(0); still < 10 && sent.Load() < most; before = sent.Load() {
		serves(t, r, "a client that never reads")
		if now := sent.Load(); now == before && now > 0 {
			still++
		} else {
			still = 0
		}
	}
	if sent.Load() >= most {
		t.Errorf("the runtime could send %d MB, and nobody has read any", sent.Load()>>20)
	}
}

// serves checks that a new client gets an answer, in spite of something.
func serves(t *testing.T, r *rig, inSpiteOf string) {
	t.Helper()
	conn, err := proxytest.Dial(r.socket())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := runtimeapi.NewRuntimeServiceClient(conn).Version(ctx, &runtimeapi.VersionRequest{}); err != nil {
		t.Errorf("in spite of %s: %v", inSpiteOf, err)
	}
}

// stopsInTime stops the proxy, which systemd gives 10 s.
func stopsInTime(t *testing.T, r *rig) {
	t.Helper()
	start := time.Now()
	r.stop()
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("it took %v to stop", took)
	}
}

// captureLog takes what is logged from now on to the end of the test.
func captureLog(t *testing.T) (logged func() string) {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "log")
	if err != nil {
		t.Fatal(err)
	}
	stderr := os.Stderr
	os.Stderr = f
	t.Cleanup(func() {
		os.Stderr = stderr
		f.Close()
	})
	return func() string {
		b, err := os.ReadFile(f.Name())
		if err != nil {
			t.Error(err)
		}
		return string(b)
	}
}

// HTTP/2, as far as these peers speak it (RFC 9113).
const (
	preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

	frameData         = 0x0
	frameHeaders      = 0x1
	frameReset        = 0x3
	frameSettings     = 0x4
	framePing         = 0x6
	frameWindowUpdate = 0x8
	frameContinuation = 0x9

	settingWindow = 0x4

	endStream  = 0x1
	endHeaders = 0x4
)

// hello is how a client begins.
var hello = append([]byte(preface), frameOf(frameSettings, 0, 0, nil)...)

func frameOf(kind, flags byte, stream uint32, payload []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(payload))<<8|uint32(kind))
	b = append(b, flags)
	b = binary.BigEndian.AppendUint32(b, stream)
	return append(b, payload...)
}

// hpack encodes short header fields, in pairs, without compression (RFC 7541).
func hpack(pairs ...string) (b []byte) {
	for i, s := range pairs {
		if i%2 == 0 {
			b = append(b, 0)
		}
		b = append(b, byte(len(s)))
		b = append(b, s...)
	}
	return b
}

// request is the header of a call.
func request(method string) []byte {
	return hpack(":method", "POST", ":scheme", "http", ":path", "/runtime.v1.RuntimeService/"+method,
		":authority", "localhost", "content-type", "application/grpc", "te", "trailers")
}

func write(t *testing.T, c net.Conn, pieces ...[]byte) {
	t.Helper()
	for _, b := range pieces {
		if _, err := c.Write(b); err != nil {
			t.Errorf("write: %v", err)
		}
	}
}

// endless writes a frame again and again until the other side has enough: it
// closes the connection or takes no more.
func endless(t *testing.T, c net.Conn, frame []byte) {
	t.Helper()
	const most = 64 << 20
	many := bytes.Repeat(frame, 1000)
	for n := 0; n < most; n += len(many) {
		if _, err := c.Write(many); err != nil {
			return
		}
	}
	t.Errorf("%d MB were taken", most>>20)
}
