package converter

import (
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// must stops the test on an error of its own preparations.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// within fails the test if fn does not return: a FIFO waits forever.
func within(t testing.TB, d time.Duration, what string, fn func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); fn() }()
	select {
	case <-done:
	case <-time.After(d):
		t.Fatalf("%s: has not returned after %v", what, d)
	}
}

// plantedRoot makes a directory with everything that a hostile writer of raw
// logs can put there.
func plantedRoot(t *testing.T) string {
	outside := t.TempDir()
	must(t, os.WriteFile(filepath.Join(outside, "shadow"), []byte("secret"), 0o600))
	root := t.TempDir()
	in := func(name string) string { return filepath.Join(root, name) }
	must(t, os.MkdirAll(in("dir/sub"), 0o755))
	must(t, os.WriteFile(in("plain"), []byte("text"), 0o600))
	must(t, os.WriteFile(in("dir/sub/plain"), []byte("text"), 0o600))
	for link, target := range map[string]string{
		"link-out":      filepath.Join(outside, "shadow"),
		"link-in":       "plain",
		"link-dangling": "nothing",
		"link-self":     "link-self",
		"dirlink-out":   outside,
		"dirlink-in":    "dir",
		"dir/up":        "..",
	} {
		must(t, os.Symlink(target, in(link)))
	}
	must(t, unix.Mkfifo(in("fifo"), 0o600))
	must(t, unix.Mkfifo(in("dir/fifo"), 0o600))
	l, err := net.Listen("unix", in("socket"))
	must(t, err)
	t.Cleanup(func() { l.Close() })
	return root
}

func TestOpenBeneathRefuses(t *testing.T) {
	root := plantedRoot(t)
	refused := map[string]string{
		"link-out":                   "symlink",
		"link-in":                    "symlink",
		"link-dangling":              "symlink",
		"link-self":                  "symlink",
		"dirlink-out/shadow":         "symlink",
		"dirlink-in/sub/plain":       "symlink",
		"dir/up/plain":               "symlink",
		"fifo":                       "FIFO",
		"dir/fifo":                   "FIFO",
		"fifo/plain":                 "FIFO",
		"plain/x":                    "regular file",
		"socket":                     "socket",
		"dir":                        "directory",
		"dir/sub":                    "directory",
		".":                          "directory",
		"..":                         "leaves",
		"../plain":                   "leaves",
		"dir/../../plain":            "leaves",
		"dir/../plain":               "clean",
		"./plain":                    "clean",
		"dir//sub/plain":             "clean",
		"plain/":                     "clean",
		"":                           "clean",
		filepath.Join(root, "plain"): "leaves",
	}
	if err := unix.Mknod(filepath.Join(root, "device"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err == nil {
		refused["device"] = "device"
	} else {
		t.Logf("no device to refuse: %v", err)
	}
	before := listTree(t, root)
	for rel, rule := range refused {
		for what, flag := range map[string]int{
			"read":   os.O_RDONLY,
			"append": os.O_RDWR | os.O_APPEND,
			"create": os.O_RDWR | os.O_APPEND | os.O_CREATE,
		} {
			within(t, 10*time.Second, what+" "+rel, func() {
				f, err := openBeneath(root, rel, flag, 0o600)
				if err == nil {
					f.Close()
					t.Errorf("%s %q: opened", what, rel)
					return
				}
				var unsafe *UnsafePathError
				if !errors.As(err, &unsafe) {
					t.Errorf("%s %q: %T %v, want an *UnsafePathError", what, rel, err, err)
					return
				}
				if unsafe.Remedy == "" || !strings.HasPrefix(filepath.Join(root, rel), unsafe.Path) {
					t.Errorf("%s %q: path %q, remedy %q", what, rel, unsafe.Path, unsafe.Remedy)
				}
				for _, part := range []string{unsafe.Path, unsafe.Rule, unsafe.Remedy, rule} {
					if !strings.Contains(err.Error(), part) {
						t.Errorf("%s %q: %q does not say %q", what, rel, err, part)
					}
				}
			})
		}
	}
	if after := listTree(t, root); after != before {
		t.Errorf("files were made:\n%swas:\n%s", after, before)
	}
}

func listTree(t *testing.T, root string) string {
	var b strings.Builder
	must(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		b.WriteString(path + " " + d.Type().String() + "\n")
		return err
	}))
	return b.String()
}

func TestOpenBeneathAccepts(t *testing.T) {
	real := plantedRoot(t)
	link := filepath.Join(t.TempDir(), "root")
	must(t, os.Symlink(real, link))
	for _, root := range []string{real, link} {
		for _, rel := range []string{"plain", "dir/sub/plain"} {
			f, err := openBeneath(root, rel, os.O_RDONLY, 0)
			must(t, err)
			b, err := io.ReadAll(f)
			if err != nil || string(b) != "text" {
				t.Errorf("%s: %q, %v", rel, b, err)
			}
			f.Close()
		}
		name := "new-" + filepath.Base(root)
		if f, err := openBeneath(root, name, os.O_RDWR, 0o640); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s without O_CREATE: %v, %v", name, f, err)
		}
		f, err := openBeneath(root, name, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o640)
		must(t, err)
		if _, err := f.WriteString("made"); err != nil {
			t.Error(err)
		}
		f.Close()
		if fi, err := os.Stat(filepath.Join(real, name)); err != nil || fi.Mode() != 0o640 || fi.Size() != 4 {
			t.Errorf("%s: %v, %v", name, fi, err)
		}
		if f, err := openBeneath(root, "missing/new", os.O_RDWR|os.O_CREATE, 0o640); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("below a missing directory: %v, %v", f, err)
		}
	}
	if f, err := openBeneath(filepath.Join(real, "missing"), "x", os.O_RDONLY, 0); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("below a missing root: %v, %v", f, err)
	}
}

// TestOpenBeneathSwapped has somebody exchange a file for a symlink, and a
// directory for another, all the time: whatever openBeneath opens is the plain
// file, never what the link shows.
func TestOpenBeneathSwapped(t *testing.T) {
	root := t.TempDir()
	in := func(name string) string { return filepath.Join(root, name) }
	must(t, os.MkdirAll(in("dir"), 0o755))
	must(t, os.MkdirAll(in("evil"), 0o755))
	must(t, os.WriteFile(in("dir/log"), []byte("good"), 0o600))
	must(t, os.WriteFile(in("dir/other"), []byte("evil"), 0o600))
	must(t, os.WriteFile(in("evil/log"), []byte("evil"), 0o600))
	must(t, os.Symlink("other", in("dir/link")))
	must(t, os.Symlink("evil", in("dirlink")))
	swap := func(a, b string) error {
		return unix.Renameat2(unix.AT_FDCWD, in(a), unix.AT_FDCWD, in(b), unix.RENAME_EXCHANGE)
	}
	if err := swap("dir/log", "dir/link"); err != nil {
		t.Skipf("cannot exchange files here: %v", err)
	}
	must(t, swap("dir/log", "dir/link"))
	for _, pair := range [][2]string{{"dir/log", "dir/link"}, {"dir", "dirlink"}} {
		stop, swapped := make(chan struct{}), make(chan error, 1)
		go func() {
			var err error
			for n := 0; err == nil; n++ {
				if n%2 == 0 { // only when all is in its place again
					select {
					case <-stop:
						swapped <- nil
						return
					default:
					}
				}
				err = swap(pair[0], pair[1])
			}
			swapped <- err
		}()
		opened := 0
		for range 3000 {
			f, err := openBeneath(root, "dir/log", os.O_RDONLY, 0)
			if err != nil {
				var unsafe *UnsafePathError
				if !errors.As(err, &unsafe) && !errors.Is(err, unix.ELOOP) && !errors.Is(err, unix.ENOTDIR) && !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%v: %v", pair, err)
				}
				continue
			}
			opened++
			if b, err := io.ReadAll(f); string(b) != "good" || err != nil {
				t.Errorf("%v: read %q, %v", pair, b, err)
			}
			f.Close()
		}
		close(stop)
		must(t, <-swapped)
		t.Logf("%v: opened %d times", pair, opened)
	}
}
