package guest

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/cri-logproxy/cri-logproxy/e2e/need"
)

func TestArgs(t *testing.T) {
	for _, c := range []struct {
		boot Boot
		want string
	}{
		{Boot{}, "lp.marker=vm"},
		{Boot{Marker: "a", Lines: 3, Known: true}, "lp.marker=a lp.lines=3 lp.known=1"},
		{Boot{FloodMB: 2, Tick: 500 * time.Millisecond}, "lp.marker=vm lp.flood=2 lp.tick=0.5"},
		{Boot{PowerOff: true, Login: true}, "lp.marker=vm lp.poweroff=1 lp.login=1"},
	} {
		if err := c.boot.Validate(); err != nil {
			t.Error(err)
		}
		if got := strings.Join(c.boot.Args(), " "); got != c.want {
			t.Errorf("%+v: got %q, want %q", c.boot, got, c.want)
		}
		if got := c.boot.Cmdline(); got != KernelParameters+" "+c.want {
			t.Errorf("%+v: got %q", c.boot, got)
		}
	}
}

func TestValidate(t *testing.T) {
	for _, b := range []Boot{{Marker: "two words"}, {Marker: strings.Repeat("x", 33)}, {Lines: -1}} {
		if b.Validate() == nil {
			t.Errorf("%+v is taken", b)
		}
	}
}

func TestConsole(t *testing.T) {
	got := Boot{Marker: "m", Lines: 2}.Console()
	want := "LP-BEGIN m\r\nLP-LINE m 1\r\nLP-LINE m 2\r\nLP-READY m\r\n"
	if string(got) != want {
		t.Errorf("got %q, want %q", got, want)
	}
	known := Boot{Known: true}.Console()
	for _, want := range []string{"return\r\r\n", "a\x00b", "10%\rLP", "\r\n\r\nLP-LONG", "yet ... now it ends\r\n"} {
		if !bytes.Contains(known, []byte(want)) {
			t.Errorf("no %q in %q", want, known)
		}
	}
}

func TestTextIsTheConsoleInLines(t *testing.T) {
	b := Boot{Lines: 3, Known: true, FloodMB: 1}
	var joined strings.Builder
	for _, line := range b.Text() {
		joined.WriteString(line + "\r\n")
	}
	if joined.String() != string(b.Console()) {
		t.Error("Text does not make up Console")
	}
}

func TestFloodLinesAreAsLongAsTheySay(t *testing.T) {
	for _, b := range []Boot{{FloodMB: 1}, {Marker: strings.Repeat("m", 32), FloodMB: 1}} {
		if n := len(b.FloodLine(12345678)); n != FloodLineLen-1 {
			t.Errorf("got %d bytes", n)
		}
	}
}

func TestLongLine(t *testing.T) {
	if n := len(longLine()); n != LongLineLen {
		t.Errorf("got %d bytes", n)
	}
}

// TestInitramfs lets busybox's own cpio read the archive.
func TestInitramfs(t *testing.T) {
	if err := need.File(busybox, "busybox-static"); err != nil {
		t.Fatal(err) // says what to install
	}
	packed, err := initramfs(busybox)
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cmd := exec.Command(busybox, "cpio", "-i", "-d", "-H", "newc", "init", "known/head")
	cmd.Dir, cmd.Stdin = dir, bytes.NewReader(plain)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for name, want := range map[string]string{"init": string(initScript), "known/head": KnownHead()} {
		got, err := os.ReadFile(dir + "/" + name)
		if err != nil || string(got) != want {
			t.Errorf("%s: got %d bytes, %v, want %d", name, len(got), err, len(want))
		}
	}
}

// TestFilesTogether has several callers ask for the same files at once.
func TestFilesTogether(t *testing.T) {
	dir := t.TempDir()
	errs := make(chan error)
	for range 4 {
		go func() {
			g, err := Files(t.Context(), dir)
			if err == nil && !(isFile(g.Kernel) && isFile(g.Initrd)) {
				err = fmt.Errorf("not both are files: %+v", g)
			}
			errs <- err
		}()
	}
	var all error
	for range 4 {
		all = errors.Join(all, <-errs)
	}
	if all != nil {
		t.Fatal(all)
	}
}
