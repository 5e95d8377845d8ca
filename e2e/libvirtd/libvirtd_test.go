package libvirtd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cri-logproxy/cri-logproxy/e2e/await"
)

// holder in the environment turns the test binary into a process that starts
// an instance, says where, and waits to be killed.
const holder = "LIBVIRTD_TEST_HOLDER"

func TestMain(m *testing.M) {
	if os.Getenv(holder) == "" {
		os.Exit(m.Run())
	}
	in, err := Start(context.Background(), Options{})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(in.Dir)
	<-in.Done()
}

func mustStart(t *testing.T, o Options) *Instance {
	t.Helper()
	in, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err) // says what to install
	}
	t.Cleanup(func() {
		if err := in.Stop(); err != nil {
			t.Error(err)
		}
	})
	return in
}

func withTimeout(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func TestInstance(t *testing.T) {
	t.Parallel()
	ctx := withTimeout(t)
	in := mustStart(t, Options{StdioHandler: StdioLogd, VirtlogdConf: "max_size = 65536"})

	uri, err := in.Virsh(ctx, "uri")
	if err != nil || strings.TrimSpace(uri) != in.URI() {
		t.Errorf("virsh uri: %q, %v", uri, err)
	}
	out, err := in.Virsh(ctx, "dominfo", "nobody")
	if err == nil || !strings.Contains(err.Error(), "nobody") {
		t.Errorf("virsh dominfo of no domain: %q, %v", out, err)
	}
	// Inside, /etc is the instance's own and libvirtd is no host process.
	conf, err := in.InNamespace(ctx, "cat", "/etc/libvirt/virtlogd.conf")
	if err != nil || !strings.Contains(conf, "max_size = 65536") {
		t.Errorf("virtlogd.conf: %q, %v", conf, err)
	}
	if pids, err := in.InNamespace(ctx, "sh", "-c", "kill -0 $(cat "+in.path("libvirtd.pid")+")"); err != nil {
		t.Errorf("libvirtd's pid file: %q, %v", pids, err)
	}
	if _, err := in.OpenConsole(ctx, "nobody"); err == nil || !strings.Contains(err.Error(), "nobody") {
		t.Errorf("console of no domain: %v", err)
	}
	if err := errors.Join(in.Stop(), in.Stop()); err != nil {
		t.Error(err)
	}
	wantNothingLeft(t, ctx, in.Dir)
}

func TestDirectoryOfTheCaller(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("/tmp", "lv")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	in := mustStart(t, Options{Dir: dir})
	if err := in.Stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "etc/libvirt/qemu.conf")); err != nil {
		t.Errorf("a caller's directory stays: %v", err)
	}
}

// TestParentKilled kills the process that holds an instance.
func TestParentKilled(t *testing.T) {
	t.Parallel()
	if err := Check(); err != nil {
		t.Fatal(err) // says what to install
	}
	ctx := withTimeout(t)
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), holder+"=1")
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	dir, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil && err != io.EOF {
		t.Error(err)
	}
	dir = strings.TrimSpace(dir)
	if len(processesOf(dir)) == 0 {
		t.Errorf("no process of %q before the kill", dir)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	wantNothingLeft(t, ctx, dir)
}

func wantNothingLeft(t *testing.T, ctx context.Context, dir string) {
	t.Helper()
	err := await.Condition(ctx, "the end of "+dir, func() (bool, error) {
		_, err := os.Stat(dir)
		return errors.Is(err, fs.ErrNotExist) && len(processesOf(dir)) == 0, nil
	})
	if err != nil {
		t.Errorf("%v; processes %q", err, processesOf(dir))
	}
}

// processesOf returns the command lines that name dir.
func processesOf(dir string) []string {
	var found []string
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		if b, err := os.ReadFile(file); err == nil && strings.Contains(string(b), dir) {
			found = append(found, strings.ReplaceAll(string(b), "\x00", " "))
		}
	}
	return found
}

func TestOptionsThatCannotWork(t *testing.T) {
	if err := Check(); err != nil {
		t.Fatal(err) // says what to install
	}
	for _, o := range []Options{
		{StdioHandler: "tape"},
		{Dir: "/var/lib/somewhere"},
		{Dir: "/tmp/" + strings.Repeat("x", 100)},
	} {
		if in, err := Start(t.Context(), o); err == nil {
			t.Errorf("%+v is taken", o)
			in.Stop()
		}
	}
}
