package proxy_test

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cri-logproxy/cri-logproxy/proxy"
)

func TestParseEndpoint(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for endpoint, want := range map[string]string{
		"unix:///run/virtlet.sock":               "/run/virtlet.sock",
		"/run/virtlet.sock":                      "/run/virtlet.sock",
		"unix:///run//./virtlet.sock":            "/run/virtlet.sock",
		"":                                       "",
		"unix://":                                "",
		"unix:///":                               "",
		"unix://run/virtlet.sock":                "",
		"run/virtlet.sock":                       "",
		"tcp://127.0.0.1:10010":                  "",
		"npipe:////./pipe/x":                     "",
		file:                                     "",
		dir:                                      "",
		"unix:///" + strings.Repeat("long/", 30): "",
	} {
		got, err := proxy.ParseEndpoint(endpoint)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("ParseEndpoint(%q) = %q, %v", endpoint, got, err)
		}
		if err != nil && (strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), "unix")) {
			t.Errorf("ParseEndpoint(%q): %v", endpoint, err)
		}
	}
}

func socketDir(t *testing.T) string {
	dir, err := os.MkdirTemp("", "sock")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func TestListenReplacesStaleSocket(t *testing.T) {
	path := filepath.Join(socketDir(t), "sub", "proxy.sock")
	for range 2 {
		l, err := proxy.Listen(path)
		if err != nil {
			t.Fatal(err)
		}
		fi, err := os.Stat(path)
		if err != nil || fi.Mode().Perm() != 0o660 {
			t.Errorf("%v, %v", fi.Mode(), err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if left, _ := os.ReadDir(filepath.Dir(path)); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
		// What a killed process leaves.
		stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		stale.SetUnlinkOnClose(false)
		stale.Close()
	}
}

func TestListenLeavesALiveSocket(t *testing.T) {
	path := filepath.Join(socketDir(t), "proxy.sock")
	l, err := proxy.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = proxy.Listen(path)
	var inUse *proxy.SocketInUseError
	if !errors.As(err, &inUse) || !strings.Contains(inUse.Owner, "pid") {
		t.Errorf("a second listener: %v", err)
	}
	if conn, err := net.Dial("unix", path); err != nil {
		t.Errorf("the first listener: %v", err)
	} else {
		conn.Close()
	}
	// Another process takes the path over: it is not ours to remove.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	other, err := proxy.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		t.Error("closing the first listener has removed the socket of the second")
	}
}

func TestListenAtTheLongestPath(t *testing.T) {
	dir := socketDir(t)
	path := filepath.Join(dir, strings.Repeat("x", 107-len(dir)-1))
	l, err := proxy.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}
