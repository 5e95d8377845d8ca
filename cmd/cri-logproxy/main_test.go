package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// asMain makes the test binary be cri-logproxy.
const asMain = "CRI_LOGPROXY_TEST_AS_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(asMain) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// command is cri-logproxy with the given arguments.
func command(t *testing.T, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), asMain+"=1", locationEnv+"=")
	return cmd
}

// result runs a command that ends by itself.
func result(t *testing.T, cmd *exec.Cmd) (code int, stdout, stderr string) {
	t.Helper()
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errOut.String()
}

func TestWrongCommandLine(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(filepath.Dir(file), link); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"--no-such-flag"}, "-no-such-flag"},
		{[]string{"serve", "--no-such-flag"}, "-no-such-flag"},
		{[]string{"sevre"}, `unexpected argument "sevre"`},
		{[]string{"version", "x"}, "unexpected argument"},
		{[]string{"--listen="}, "--listen: \"\": want unix:///path/to.sock"},
		{[]string{"--runtime-endpoint=tcp://127.0.0.1:1"}, "--runtime-endpoint: \"tcp://127.0.0.1:1\": only unix sockets"},
		{[]string{"--runtime-endpoint=unix://"}, "want unix:///path/to.sock"},
		{[]string{"--runtime-endpoint=" + file}, "no socket but another kind of file"},
		{[]string{"--listen=/run/a.sock", "--runtime-endpoint=unix:///run/a.sock"}, "it would call itself"},
		{[]string{"--vm-log-location=vms"}, "want an absolute path"},
		{[]string{"--vm-log-location=pty", "--vm-log-dir=/var/log/vms"}, "leave --vm-log-dir out"},
		{[]string{"--vm-log-location=/var/log/vms", "--vm-log-dir=/var/log/pods/vms"}, "where kubelet deletes what it does not know"},
		{[]string{"--pod-logs-dir="}, "want an absolute path"},
		{[]string{"--state-dir=state"}, "want an absolute path"},
		{[]string{"--log-format=text"}, "want cri or json"},
		{[]string{"-v=x"}, "-v"},
		{[]string{"--raw-retain=1TB"}, "want a size such as 64KiB"},
		{[]string{"--raw-retain=-1"}, "want a size such as 64KiB"},
		{[]string{"--logtostderr=false"}, "want --log_dir"},
		{[]string{"--logtostderr=false", "--log_dir=" + file}, "want --log_dir"},
		{[]string{"--listen=" + link + "/a.sock", "--runtime-endpoint=unix://" + filepath.Dir(file) + "/a.sock"}, "it would call itself"},
	} {
		code, stdout, stderr := result(t, command(t, test.args...))
		if code != 2 || stdout != "" || !strings.Contains(stderr, test.want) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%q: exit code %d, stdout %q, stderr %q", test.args, code, stdout, stderr)
		}
	}
}

func TestHelpAndVersion(t *testing.T) {
	for _, args := range [][]string{{"--help"}, {"serve", "-h"}, {"help"}} {
		code, stdout, stderr := result(t, command(t, args...))
		if code != 0 || stderr != "" {
			t.Errorf("%q: exit code %d, stderr %q", args, code, stderr)
		}
		for _, flag := range []string{"-listen", "-runtime-endpoint", "-vm-log-location", "-vm-log-dir", "-pod-logs-dir", "-state-dir", "-log-format", "-v "} {
			if !strings.Contains(stdout, "  "+flag) {
				t.Errorf("%q does not tell of %s", args, flag)
			}
		}
	}
	for _, arg := range []string{"version", "--version"} {
		if code, stdout, _ := result(t, command(t, arg)); code != 0 || !strings.HasPrefix(stdout, "cri-logproxy ") {
			t.Errorf("%s: exit code %d, %q", arg, code, stdout)
		}
	}
}

// daemon is a running cri-logproxy.
type daemon struct {
	t     *testing.T
	dir   string
	cmd   *exec.Cmd
	lines chan string // of its log; closed at its end
}

func newDir(t *testing.T) string {
	dir, err := os.MkdirTemp("", "cmd") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func flags(dir string, more ...string) []string {
	return append([]string{
		"--listen=" + dir + "/proxy.sock", "--runtime-endpoint=unix://" + dir + "/runtime.sock",
		"--pod-logs-dir=" + dir + "/pods", "--state-dir=" + dir + "/state",
	}, more...)
}

// start starts a daemon and waits until it serves.
func start(t *testing.T, cmd *exec.Cmd, dir string) *daemon {
	t.Helper()
	d := &daemon{t: t, dir: dir, cmd: cmd, lines: make(chan string, 1000)}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(d.lines)
		for in := bufio.NewScanner(stderr); in.Scan(); {
			d.lines <- in.Text()
		}
		_, _ = io.Copy(io.Discard, stderr)
	}()
	d.wait("serving at " + dir + "/proxy.sock")
	return d
}

// wait waits for a line of the log that contains text.
func (d *daemon) wait(text string) string {
	d.t.Helper()
	timeout := time.After(20 * time.Second)
	for {
		select {
		case line, ok := <-d.lines:
			if !ok {
				d.t.Fatalf("it has ended without %q in its log", text)
			}
			if strings.Contains(line, text) {
				return line
			}
		case <-timeout:
			d.t.Fatalf("waited in vain for %q in the log", text)
		}
	}
}

func (d *daemon) stop(sig syscall.Signal) error {
	d.t.Helper()
	if err := d.cmd.Process.Signal(sig); err != nil {
		d.t.Fatal(err)
	}
	for range d.lines {
	}
	return d.cmd.Wait()
}

// TestLifeOfTheDaemon starts it without a runtime, has the runtime come and go,
// and stops it.
func TestLifeOfTheDaemon(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		dir := newDir(t)
		d := start(t, command(t, flags(dir)...), dir)
		d.wait("does not answer; calls get Unavailable")
		conn, err := grpc.NewClient("unix://"+dir+"/proxy.sock", grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		client := runtimeapi.NewRuntimeServiceClient(conn)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if _, err := client.Version(ctx, &runtimeapi.VersionRequest{}); status.Code(err) != codes.Unavailable {
			t.Errorf("Version without a runtime: %v", err)
		}
		l, err := net.Listen("unix", dir+"/runtime.sock")
		if err != nil {
			t.Fatal(err)
		}
		runtime := grpc.NewServer()
		runtimeapi.RegisterRuntimeServiceServer(runtime, runtimeapi.UnimplementedRuntimeServiceServer{})
		go func() { _ = runtime.Serve(l) }()
		defer runtime.Stop()
		d.wait("answers, after")
		if _, err := client.Version(ctx, &runtimeapi.VersionRequest{}); status.Code(err) != codes.Unimplemented {
			t.Errorf("Version of a runtime that implements nothing: %v", err)
		}
		runtime.Stop()
		d.wait("does not answer; calls get Unavailable")
		if err := d.stop(sig); err != nil {
			t.Errorf("%v: %v", sig, err)
		}
		if _, err := os.Stat(dir + "/proxy.sock"); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the socket is still there: %v", err)
		}
	}
}

func TestInUse(t *testing.T) {
	dir := newDir(t)
	d := start(t, command(t, flags(dir)...), dir)
	pid := "pid " + strconv.Itoa(d.cmd.Process.Pid)

	code, _, stderr := result(t, command(t, flags(dir, "--listen="+dir+"/other.sock")...))
	if code != 1 || !strings.Contains(stderr, "state directory "+dir+"/state is in use by") || !strings.Contains(stderr, pid) {
		t.Errorf("a second one with the same state directory: exit code %d, %s", code, stderr)
	}
	code, _, stderr = result(t, command(t, flags(dir, "--state-dir="+dir+"/other")...))
	if code != 1 || !strings.Contains(stderr, "socket "+dir+"/proxy.sock is held by") || !strings.Contains(stderr, pid) {
		t.Errorf("a second one with the same socket: exit code %d, %s", code, stderr)
	}
	conn, err := net.Dial("unix", dir+"/proxy.sock")
	if err != nil {
		t.Errorf("the first one: %v", err)
	} else {
		conn.Close()
	}
	if err := d.stop(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
}

// TestAfterAKill checks that a killed one leaves nothing that stops the next.
func TestAfterAKill(t *testing.T) {
	dir := newDir(t)
	d := start(t, command(t, flags(dir)...), dir)
	if err := d.stop(syscall.SIGKILL); err == nil {
		t.Error("a killed process has exited with 0")
	}
	if err := os.WriteFile(dir+"/state/containers/c.json", []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := command(t, flags(dir)...)
	d = start(t, cmd, dir)
	if err := d.stop(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir + "/state/containers/c.json.damaged"); err != nil {
		t.Errorf("the damaged record: %v", err)
	}
}

// TestLocationOfVirtlet checks that Virtlet's own variable is understood.
func TestLocationOfVirtlet(t *testing.T) {
	for location, want := range map[string]string{
		"":              "consoles are ptys",
		"pty":           "consoles are ptys",
		"/var/log/vms/": "converting the consoles in /var/log/vms (",
	} {
		dir := newDir(t)
		cmd := command(t, flags(dir)...)
		cmd.Env = append(cmd.Env, locationEnv+"="+location)
		stderr, err := cmd.StderrPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		first, err := bufio.NewReader(stderr).ReadString('\n')
		if err != nil || !strings.Contains(first, want) {
			t.Errorf("%s=%q: %q, %v", locationEnv, location, first, err)
		}
		go io.Copy(io.Discard, stderr)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
}

// TestREADME checks that the README shows --help as it is.
func TestREADME(t *testing.T) {
	_, help, _ := result(t, command(t, "--help"))
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(readme), "```\n"+help+"```\n") {
		t.Errorf("README.md lacks this:\n%s", help)
	}
}
