package box

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cri-logproxy/cri-logproxy/e2e/await"
)

// TestMain is also the harness that TestKilled kills: it starts a box with a
// process in it, says so, and waits.
func TestMain(m *testing.M) {
	if os.Getenv("BOX_TO_KILL") == "" {
		os.Exit(m.Run())
	}
	b, err := Start(context.Background())
	if err != nil {
		panic(err)
	}
	sleeper := exec.Command("sleep", "1000")
	if err := b.Start(sleeper); err != nil {
		panic(err)
	}
	mount := exec.Command("mount", "--bind", filepath.Join(b.Dir, "fs"), filepath.Join(b.Dir, "fs")) // as kubelet does
	if err := errors.Join(b.Start(mount), mount.Wait()); err != nil {
		panic(err)
	}
	fmt.Println(b.Dir, b.Cgroup, sleeper.Process.Pid)
	select {}
}

// TestKilled kills a harness, whose box must go with it.
func TestKilled(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	harness := exec.CommandContext(ctx, os.Args[0])
	harness.Env = append(os.Environ(), "BOX_TO_KILL=1")
	harness.Stderr = os.Stderr
	out, err := harness.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := harness.Start(); err != nil {
		t.Fatal(err)
	}
	var dir, cgroup string
	var pid int
	if _, err := fmt.Fscanln(out, &dir, &cgroup, &pid); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); err != nil {
		t.Error(err)
	}
	if err := harness.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = harness.Wait() // it was killed
	err = await.Condition(ctx, "everything is gone", func() (bool, error) {
		_, process := os.Stat(fmt.Sprintf("/proc/%d", pid))
		_, directory := os.Stat(dir)
		cgroups, err := filepath.Glob(cgroupRoot + "/*" + cgroup)
		return process != nil && directory != nil && len(cgroups) == 0, err
	})
	if err != nil {
		t.Error(err)
	}
}

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
