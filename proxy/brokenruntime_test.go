package proxy_test

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-logproxy/cri-logproxy/proxy"
	"github.com/cri-logproxy/cri-logproxy/proxy/proxytest"
)

// brokenRuntimes are runtimes that do to a connection what no runtime does. The
// connection is closed when they return.
var brokenRuntimes = map[string]func(c net.Conn){
	"says nothing":     func(c net.Conn) { _, _ = io.Copy(io.Discard, c) },
	"hangs up":         func(net.Conn) {},
	"greets, hangs up": func(c net.Conn) { _, _ = c.Write(frameOf(frameSettings, 0, 0, nil)) },
	"random bytes": func(c net.Conn) {
		b := make([]byte, 64<<10)
		_, _ = rand.Read(b)
		_, _ = c.Write(b)
	},
	"answers no call": func(c net.Conn) {
		_, _ = c.Write(frameOf(frameSettings, 0, 0, nil))
		_, _ = io.Copy(io.Discard, c)
	},
	"answers with half a header": func(c net.Conn) {
		answerCalls(c, func(id uint32) []byte { return frameOf(frameHeaders, 0, id, answerHeader) })
	},
	"answers with a header without end": func(c net.Conn) {
		answerCalls(c, func(id uint32) []byte {
			_, _ = c.Write(frameOf(frameHeaders, 0, id, answerHeader))
			for {
				if _, err := c.Write(frameOf(frameContinuation, 0, id, hpack("x", strings.Repeat("x", 100)))); err != nil {
					return nil
				}
			}
		})
	},
	"answers with what is no message": func(c net.Conn) {
		answerCalls(c, func(id uint32) []byte {
			return append(frameOf(frameHeaders, endHeaders, id, answerHeader), frameOf(frameData, endStream, id, []byte("\x07no gRPC"))...)
		})
	},
	"answers with a message of 4 GB": func(c net.Conn) {
		answerCalls(c, func(id uint32) []byte {
			return append(frameOf(frameHeaders, endHeaders, id, answerHeader), frameOf(frameData, 0, id, []byte("\x00\xff\xff\xff\xffbegin"))...)
		})
	},
	"answers with what is no CRI": func(c net.Conn) {
		answerCalls(c, func(id uint32) []byte {
			return append(frameOf(frameHeaders, endHeaders, id, answerHeader), append(
				frameOf(frameData, 0, id, []byte("\x00\x00\x00\x00\x03\xff\xff\xff")),
				frameOf(frameHeaders, endHeaders|endStream, id, hpack("grpc-status", "0"))...)...)
		})
	},
}

var answerHeader = append([]byte{0x88}, hpack("content-type", "application/grpc")...) // 0x88: :status 200

// answerCalls writes an answer to each call.
func answerCalls(c net.Conn, answer func(id uint32) []byte) {
	_, _ = c.Write(frameOf(frameSettings, 0, 0, nil))
	if _, err := io.CopyN(io.Discard, c, int64(len(preface))); err != nil {
		return
	}
	head := make([]byte, 9)
	for {
		if _, err := io.ReadFull(c, head); err != nil {
			return
		}
		if _, err := io.CopyN(io.Discard, c, int64(binary.BigEndian.Uint32(head)>>8)); err != nil {
			return
		}
		if head[3] == frameHeaders {
			if _, err := c.Write(answer(binary.BigEndian.Uint32(head[5:]))); err != nil {
				return
			}
		}
	}
}

// TestBrokenRuntimes checks that each call ends in time, that the proxy neither
// logs nor connects in a storm, that it keeps nothing, and that it serves when
// the runtime is whole again.
func TestBrokenRuntimes(t *testing.T) {
	for name, broken := range brokenRuntimes {
		t.Run(name, func(t *testing.T) {
			logged := captureLog(t)
			nothingLeft := leftovers(t)
			t.Run("and then whole", func(t *testing.T) { brokenThenWhole(t, broken) })
			nothingLeft()
			if s := logged(); strings.Count(s, "\n") > 8 {
				t.Errorf("a storm in the log:\n%.3000s", s)
			}
		})
	}
}

func brokenThenWhole(t *testing.T, broken func(net.Conn)) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	var open []net.Conn
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				break
			}
			open = append(open, c)
			conns.Go(func() {
				broken(c)
				c.Close()
			})
		}
		for _, c := range open {
			c.Close()
		}
	})
	start := time.Now()
	r := newRig(t, nil, func(cfg *proxy.Config) { cfg.RuntimeSocket = socket })
	const calls = 50
	for range calls {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		resp, err := r.client.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: "x"})
		cancel()
		if err == nil {
			t.Errorf("a call is answered: %v", resp)
		}
	}
	took := time.Since(start)
	l.Close()
	conns.Wait()
	// A call may want a connection, which are three, for two ask for Version. The
	// proxy makes few of its own: up to 20 in the first second.
	if n := len(open); float64(n) > 3*calls+20*(1+took.Seconds()) {
		t.Errorf("%d connections to the runtime in %v", n, took)
	}
	whole, err := proxytest.NewBackend(proxytest.BackendOptions{Socket: socket})
	if err != nil {
		t.Fatal(err)
	}
	defer whole.Close()
	listNothing(whole)
	eventually(t, "the runtime is whole", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := r.client.Version(ctx, &runtimeapi.VersionRequest{})
		return err == nil
	})
	stopsInTime(t, r)
}

// TestRuntimeThatHangsUp checks that a runtime which ends each connection at once
// is connected to once a second, and complained of once.
func TestRuntimeThatHangsUp(t *testing.T) {
	logged := captureLog(t)
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	r := newRig(t, nil, func(cfg *proxy.Config) { cfg.RuntimeSocket = socket })
	start := time.Now()
	const connections = 12 // three at a time: two are for Version
	var conns sync.WaitGroup
	for range connections {
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		conns.Go(func() {
			defer c.Close()
			answerCalls(c, func(uint32) []byte { // it is connected
				c.Close()
				return nil
			})
		})
	}
	if took := time.Since(start); took < 2*time.Second {
		t.Errorf("%d connections in %v", connections, took)
	}
	r.stop()
	l.Close()
	conns.Wait()
	if s := logged(); strings.Count(s, "\n") > 2 || strings.Count(s, "hangs up as soon as it is connected") != 1 {
		t.Errorf("this is logged: %.2000s", s)
	}
}
