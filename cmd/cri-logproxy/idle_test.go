package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cri-logproxy/cri-logproxy/proxy/proxytest"
)

// idleConnections is how many clients connect and then do nothing, and
// idleMemory what one may cost, in KiB.
const idleConnections, idleMemory = 10_000, 32

// TestIdleConnections checks that a great many idle clients keep nobody from
// being served, cost little, and do not delay the end. The binary is one without
// the race detector, which bounds the number of goroutines.
func TestIdleConnections(t *testing.T) {
	dir := newDir(t)
	newBackend(t, dir)
	if out, err := exec.Command("go", "build", "-o", dir+"/cri-logproxy", ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	cmd := exec.CommandContext(t.Context(), dir+"/cri-logproxy", flags(dir)...)
	d := start(t, cmd, dir)
	before := residentKiB(t, cmd.Process.Pid)
	for range idleConnections {
		c := dialBusy(t, dir+"/proxy.sock")
		defer c.Close()
		if _, err := c.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")); err != nil {
			t.Fatal(err)
		}
		// The settings of the server, and the answer to ours: it is connected.
		if _, err := c.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	conn, err := proxytest.Dial(dir + "/proxy.sock")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := version(ctx, conn); err != nil {
		t.Error(err)
	}
	each := float64(residentKiB(t, cmd.Process.Pid)-before) / idleConnections
	t.Logf("%.1f KiB for each", each)
	if each > idleMemory {
		t.Errorf("an idle connection costs %.1f KiB, more than %d", each, idleMemory)
	}
	begin := time.Now()
	if err := d.stop(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("it took %v to stop", took)
	}
}

// dialBusy connects to a socket whose queue may be full for a moment.
func dialBusy(t *testing.T, path string) net.Conn {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; {
		c, err := net.Dial("unix", path)
		if err == nil {
			return c
		}
		if !errors.Is(err, syscall.EAGAIN) || time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// residentKiB is the memory of a process (proc_pid_status(5)).
func residentKiB(t *testing.T, pid int) (kib int) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "VmRSS:")
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		t.Fatal(err)
	}
	return kib
}
