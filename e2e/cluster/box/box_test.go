package box

import (
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestBox looks at what a process in a box sees, and at what is left of it.
func TestBox(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	b, err := Start(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Stop()
	if err := os.WriteFile(filepath.Join(b.Path(PodLogs), "here"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for command, want := range map[string]string{
		"hostname":                     NodeName,
		"ls " + PodLogs:                "here",
		"cat /proc/sys/kernel/panic":   "10",
		"readlink /proc/1/exe":         "/usr/bin/bash",
		"readlink /proc/self/exe":      "/usr/bin/readlink",
		"ip -o -4 addr show | wc -l":   "2",
		"ps -e -o comm= | head -n 1":   "bash",
		"ip route | cut -d ' ' -f 1-3": "default dev node0",
	} {
		var out bytes.Buffer
		cmd := exec.Command("bash", "-c", command)
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := b.Start(cmd); err != nil {
			t.Fatal(err)
		}
		err := cmd.Wait()
		if got, _, _ := strings.Cut(out.String(), "\n"); got != want {
			t.Errorf("%s: %q, %v, want %q", command, got, err, want)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if conn, err := b.Dial(ctx, "tcp", l.Addr().String()); err == nil {
		conn.Close()
		t.Error("the box reaches the machine's loopback")
	}
	began := time.Now()
	if err := b.Stop(); err != nil {
		t.Error(err)
	}
	t.Logf("stopped in %v", time.Since(began))
	if _, err := os.Stat(b.Dir); err == nil {
		t.Errorf("%s is still there", b.Dir)
	}
	if left, _ := filepath.Glob(cgroupRoot + "/*" + b.Cgroup); len(left) > 0 {
		t.Errorf("cgroups are left: %v", left)
	}
}
