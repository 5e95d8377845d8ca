package statefile

import (
	"bytes"
	"errors"
	"io/fs"
	"math/bits"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
)

type state struct {
	Name  string   `json:"name"`
	Bytes []byte   `json:"bytes"`
	Count uint64   `json:"count"`
	List  []string `json:"list,omitempty"`
}

var sample = state{
	Name:  "<&>\u2028\"\\ žluť\x00\x7f",
	Bytes: []byte{0, 0xff, '\n', 0x80},
	Count: 1<<64 - 1,
	List:  []string{"", "a\nb"},
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestRoundTrip(t *testing.T) {
	for _, durable := range []bool{false, true} {
		dir := t.TempDir()
		path := filepath.Join(dir, "a"+Suffix)
		for range 2 { // the second replaces the first
			must(t, Write(path, 3, sample, durable))
		}
		for _, version := range []int{3, 4} {
			var got state
			must(t, Read(path, version, &got))
			if !reflect.DeepEqual(got, sample) {
				t.Errorf("read %+v, wrote %+v", got, sample)
			}
		}
		if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("mode %v, %v", fi.Mode(), err)
		}
		expectFiles(t, dir, "a.json")
		must(t, Remove(path))
		must(t, Remove(path))
		expectFiles(t, dir)
		if err := Read(path, 3, &state{}); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Read after Remove: %v", err)
		}
	}
}

func expectFiles(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("files %q, want %q", got, want)
	}
}

func TestDamaged(t *testing.T) {
	good, err := Encode(2, sample)
	must(t, err)
	damage := map[string]struct {
		content []byte
		reason  string
	}{
		"empty":           {nil, "empty"},
		"NULs":            {make([]byte, 4096), "empty"},
		"NULs at the end": {append(bytes.Clone(good), make([]byte, 100)...), "JSON"},
		"doubled":         {append(bytes.Clone(good), good...), "JSON"},
		"other JSON":      {[]byte("[]\n"), "JSON"},
		"null":            {[]byte("null\n"), "version 0"},
		"no checksum":     {[]byte(`{"version":1,"data":{}}`), "checksum"},
		"no data":         {[]byte(`{"version":1,"checksum":"00000000"}`), "JSON"},
		"other data":      {mustEncode(t, 1, "text"), "string"},
		"version 0":       {mustEncode(t, 0, sample), "version 0"},
		"version -1":      {mustEncode(t, -1, sample), "version -1"},
		"newer version":   {mustEncode(t, 3, sample), "version 3"},
	}
	for name, d := range damage {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "x"+Suffix)
			must(t, os.WriteFile(path, d.content, 0o600))
			var damaged *DamagedError
			if err := Read(path, 2, &state{}); !errors.As(err, &damaged) {
				t.Fatalf("Read: %v", err)
			}
			if damaged.Path != path || damaged.Aside != path+".damaged" || !strings.Contains(damaged.Reason, d.reason) {
				t.Errorf("%+v, want a reason about %q", damaged, d.reason)
			}
			for _, part := range []string{path, damaged.Reason, damaged.Aside} {
				if !strings.Contains(damaged.Error(), part) {
					t.Errorf("%q does not say %q", damaged, part)
				}
			}
			if b, err := os.ReadFile(damaged.Aside); err != nil || !bytes.Equal(b, d.content) {
				t.Errorf("set aside is %q, %v", b, err)
			}
			if err := Read(path, 2, &state{}); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("second Read: %v", err)
			}
			// A new file takes its place, and can be damaged in its turn.
			must(t, Write(path, 2, sample, false))
			must(t, Read(path, 2, &state{}))
			must(t, os.WriteFile(path, d.content, 0o600))
			if err := Read(path, 2, &state{}); !errors.As(err, &damaged) || damaged.Aside == "" {
				t.Errorf("Read of a second damaged one: %v", err)
			}
			expectFiles(t, dir, "x.json.damaged")
		})
	}
}

func mustEncode(t *testing.T, version int, v any) []byte {
	b, err := Encode(version, v)
	must(t, err)
	return b
}

// TestDamagedStays shows the error for a file that cannot be set aside.
func TestDamagedStays(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x"+Suffix)
	must(t, os.WriteFile(path, []byte("{"), 0o600))
	must(t, os.MkdirAll(filepath.Join(path+".damaged", "in the way"), 0o700))
	var damaged *DamagedError
	if err := Read(path, 1, &state{}); !errors.As(err, &damaged) || damaged.Aside != "" || !strings.Contains(err.Error(), "delete it") {
		t.Errorf("Read: %v", err)
	}
}

// TestTruncated reads a file at each length that it may be cut to.
func TestTruncated(t *testing.T) {
	good := mustEncode(t, 1, sample)
	for n := range len(good) - 1 { // without its '\n' it is whole
		if err := Decode(good[:n], 1, &state{}); err == nil {
			t.Errorf("%q was read", good[:n])
		}
	}
}

// TestBitFlips flips each bit. What is read then must be what was written: the
// bit did not matter, as in the case of a key.
func TestBitFlips(t *testing.T) {
	good := mustEncode(t, 1, sample)
	harmless := 0
	for i := range good {
		for bit := range 8 {
			b := bytes.Clone(good)
			b[i] ^= 1 << bit
			var got state
			if Decode(b, 1, &got) != nil {
				continue
			}
			harmless++
			if !reflect.DeepEqual(got, sample) {
				t.Errorf("bit %d of byte %d: %q was read as %+v", bit, i, b, got)
			}
			if b[i]&^0x20 != good[i]&^0x20 || bits.OnesCount8(b[i]^good[i]) != 1 {
				t.Errorf("bit %d of byte %d: %q passes", bit, i, b)
			}
		}
	}
	t.Logf("%d of %d flips are harmless", harmless, 8*len(good))
}

func TestName(t *testing.T) {
	long := strings.Repeat("x", 128)
	plain := []string{"a", "0", "8f14e45f-ceea-467f-a0e6-1b2c3d4e5f60", "a.json", "a.json.damaged", "A", "a_b.c-d", "sha256", "sha256x", long}
	hostile := []string{
		"", ".", "..", "...", "../x", "../../etc/passwd", "/", "/etc/passwd", "x/", "x/y", "x/../y", `x\y`,
		"a\x00b", "\x00", "a\n", "a\nb", " ", "-x", "_x", ".tmp-1", ".x", "*", "?", "[a]", "~", "žluť", "\xff",
		long + "x", strings.Repeat("x", 1<<16),
		"sha256-", "sha256-x", strings.TrimSuffix(Name("../x"), Suffix), strings.TrimSuffix(Name(""), Suffix),
	}
	seen := make(map[string]string)
	for i, id := range append(plain, hostile...) {
		name := Name(id)
		if other, ok := seen[name]; ok {
			t.Errorf("%q and %q are both %q", id, other, name)
		}
		seen[name] = id
		if isPlain := i < len(plain); isPlain != (name == id+Suffix) {
			t.Errorf("Name(%q) = %q", id, name)
		}
		if filepath.Base(name) != name || !filepath.IsLocal(name) || !strings.HasSuffix(name, Suffix) || len(name+asideSuffix) > 255 {
			t.Errorf("Name(%q) = %q", id, name)
		}
		if m, err := filepath.Match("*"+Suffix, name); !m || err != nil || strings.HasPrefix(name, ".") {
			t.Errorf("Name(%q) = %q is not found again", id, name)
		}
	}
	// All of them are files in the directory, and nowhere else.
	parent := t.TempDir()
	dir := filepath.Join(parent, "state")
	must(t, os.Mkdir(dir, 0o700))
	for name, id := range seen {
		must(t, Write(filepath.Join(dir, name), 1, []byte(id), false))
	}
	expectFiles(t, parent, "state")
	for name, id := range seen {
		var got []byte
		if err := Read(filepath.Join(dir, name), 1, &got); err != nil || string(got) != id {
			t.Errorf("%q: %q, %v", name, got, err)
		}
	}
	entries, err := os.ReadDir(dir)
	must(t, err)
	if len(entries) != len(seen) {
		t.Errorf("%d files for %d IDs", len(entries), len(seen))
	}
}

func TestClean(t *testing.T) {
	// Meta characters in the name of the directory mean themselves.
	for _, name := range []string{"state", "st[at]e*?", `back\slash`} {
		dir := filepath.Join(t.TempDir(), name)
		must(t, os.Mkdir(dir, 0o700))
		path := filepath.Join(dir, Name("kept"))
		must(t, Write(path, 1, sample, false))
		must(t, os.WriteFile(path+asideSuffix, []byte("x"), 0o600))
		for _, left := range []string{".tmp-1", ".tmp-23456"} {
			must(t, os.WriteFile(filepath.Join(dir, left), []byte(`{"ver`), 0o600))
		}
		must(t, Clean(dir))
		must(t, Clean(dir))
		expectFiles(t, dir, "kept.json", "kept.json.damaged")
		must(t, Read(path, 1, &state{}))
	}
}

func TestWriteFails(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x"+Suffix)
	must(t, Write(path, 1, sample, true))
	if err := Write(path, 1, func() {}, true); err == nil {
		t.Error("wrote a func")
	}
	if err := Write(filepath.Join(path, "x"), 1, sample, true); !errors.Is(err, syscall.ENOTDIR) {
		t.Errorf("wrote below a file: %v", err)
	}
	must(t, os.Mkdir(filepath.Join(dir, "d.json"), 0o700))
	if err := Write(filepath.Join(dir, "d.json"), 1, sample, true); err == nil {
		t.Error("wrote over a directory")
	}
	expectFiles(t, dir, "d.json", "x.json")
	must(t, Read(path, 1, &state{}))
}

// TestNoDirectory has one that could not be made: it is empty, until the disk is
// well again.
func TestNoDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state", "records")
	path := filepath.Join(dir, "x"+Suffix)
	must(t, Clean(dir))
	must(t, Remove(path))
	if files, err := List(dir); err != nil || len(files) > 0 {
		t.Errorf("List: %q, %v", files, err)
	}
	must(t, Write(path, 1, sample, true))
	must(t, Read(path, 1, &state{}))
	expectFiles(t, dir, "x.json")
}

// FuzzDecode checks that no input makes Decode panic, and that what it reads is
// written and read again as the same.
func FuzzDecode(f *testing.F) {
	good, err := Encode(1, sample)
	must(f, err)
	f.Add(good)
	f.Add([]byte("null"))
	f.Add([]byte(`{"version":1,"checksum":"00000000","data":null}`))
	f.Add([]byte("\x00\x00\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		// b as the data of a file, and b as a file.
		encoded, err := Encode(1, b)
		must(t, err)
		var data []byte
		if err := Decode(encoded, 1, &data); err != nil || !bytes.Equal(data, b) {
			t.Fatalf("%q came back as %q, %v", b, data, err)
		}
		var v any
		if Decode(b, 1, &v) != nil {
			return
		}
		again, err := Encode(1, v)
		must(t, err)
		var w any
		if err := Decode(again, 1, &w); err != nil || !reflect.DeepEqual(v, w) {
			t.Fatalf("%q is %#v, and then %#v, %v", b, v, w, err)
		}
	})
}
