package logmap

import (
	"bufio"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/cri-logproxy/cri-logproxy/converter/statefile"
)

// childDir names the environment variable that makes the test binary a process
// which records containers until it is killed.
const childDir = "LOGMAP_TEST_CHILD_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		fmt.Fprintln(os.Stderr, putForever(dir))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// childIDs is how many containers the child records, one after the other.
const childIDs = 7

// putForever records containers of ever higher attempts, and prints those that
// are on record.
func putForever(dir string) error {
	m, damaged, err := Open(dir)
	if err := errors.Join(append(damaged, err)...); err != nil {
		return err
	}
	for attempt := uint32(1); ; attempt++ {
		c := container(fmt.Sprintf("c%d", attempt%childIDs), attempt)
		if err := m.PutContainer(c); err != nil {
			return err
		}
		if err := m.PutSandbox(Sandbox{ID: "s" + c.ID, Name: strconv.Itoa(int(attempt))}); err != nil {
			return err
		}
		if _, err := fmt.Println(attempt); err != nil {
			return err
		}
	}
}

func container(id string, attempt uint32) Container {
	return Container{
		ID: id, SandboxID: "sandbox", Namespace: "default", Pod: "vm", Name: "guest", Attempt: attempt, Mode: ModeFile,
		RawLogs:      []string{fmt.Sprintf("sandbox/_%d.log", attempt), "sandbox/_0.log"},
		ContainerLog: fmt.Sprintf("/var/log/pods/default_vm_uid/guest/%d.log", attempt),
		Problem:      strings.Repeat("x", int(attempt%5)*1000),
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, dir string) *Map {
	t.Helper()
	m, damaged, err := Open(dir)
	must(t, errors.Join(append(damaged, err)...))
	t.Cleanup(func() { m.Close() })
	return m
}

func expectContainer(t *testing.T, m *Map, want Container) {
	t.Helper()
	if got, ok := m.Container(want.ID); !ok || !reflect.DeepEqual(got, want) {
		t.Errorf("container %q is %+v, %v; want %+v", want.ID, got, ok, want)
	}
}

func TestRecords(t *testing.T) {
	// Meta characters in the name of the directory mean themselves.
	dir := filepath.Join(t.TempDir(), "st[at]e", "new")
	m := open(t, dir)
	a, b, pty := container("a", 0), container("b", 3), Container{ID: "c", SandboxID: "other", Mode: ModePTY}
	for _, c := range []Container{b, a, pty, {ID: "gone"}} {
		must(t, m.PutContainer(c))
	}
	a.Attempt, a.Started = 1, true
	must(t, m.PutContainer(a))
	s1 := Sandbox{ID: "sandbox", Namespace: "default", Name: "vm", UID: "uid", LogDirectory: "/var/log/pods/default_vm_uid"}
	must(t, m.PutSandbox(s1))
	must(t, m.PutSandbox(Sandbox{ID: "a-sandbox", Name: "old"}))
	must(t, m.PutSandbox(Sandbox{ID: "a-sandbox", Name: "new"}))
	must(t, m.PutSandbox(Sandbox{ID: "gone"}))
	for range 2 {
		must(t, m.RemoveContainer("gone"))
		must(t, m.RemoveSandbox("gone"))
	}
	for range 2 {
		for _, c := range []Container{a, b, pty} {
			expectContainer(t, m, c)
		}
		if _, ok := m.Container("gone"); ok {
			t.Error("the removed container is on record")
		}
		if _, ok := m.Sandbox("gone"); ok {
			t.Error("the removed sandbox is on record")
		}
		if got := m.Containers(); !reflect.DeepEqual(got, []Container{a, b, pty}) {
			t.Errorf("all containers: %+v", got)
		}
		if got := m.InSandbox("sandbox"); !reflect.DeepEqual(got, []Container{a, b}) {
			t.Errorf("the sandbox's containers: %+v", got)
		}
		if got := m.InSandbox("unknown"); got != nil {
			t.Errorf("an unknown sandbox's containers: %+v", got)
		}
		if got := m.Sandboxes(); !reflect.DeepEqual(got, []string{"a-sandbox", "sandbox"}) {
			t.Errorf("sandboxes: %q", got)
		}
		if got, ok := m.Sandbox("sandbox"); !ok || !reflect.DeepEqual(got, s1) {
			t.Errorf("sandbox: %+v, %v", got, ok)
		}
		if got, _ := m.Sandbox("a-sandbox"); got.Name != "new" {
			t.Errorf("sandbox: %+v", got)
		}
		must(t, m.Close())
		m = open(t, dir)
	}
}

func never() bool { return false }

func TestAddContainer(t *testing.T) {
	m := open(t, t.TempDir())
	for attempt := range uint32(2) {
		if added, err := m.AddContainer(container("a", attempt), never); err != nil || added != (attempt == 0) {
			t.Errorf("attempt %d: %v, %v", attempt, added, err)
		}
		expectContainer(t, m, container("a", 0))
	}
	must(t, m.Close())
	m = open(t, m.dir)
	expectContainer(t, m, container("a", 0))
	if added, err := m.AddContainer(container("a", 1), never); err != nil || added {
		t.Errorf("after a restart: %v, %v", added, err)
	}
	if added, err := m.AddContainer(container("b", 0), func() bool { return true }); err != nil || added {
		t.Errorf("a stale one: %v, %v", added, err)
	}
}

func TestAddSandbox(t *testing.T) {
	m := open(t, t.TempDir())
	must(t, m.AddSandbox(Sandbox{ID: "a", Name: "old"}, never))
	must(t, m.AddSandbox(Sandbox{ID: "a", Name: "new"}, never))
	must(t, m.AddSandbox(Sandbox{ID: "b"}, func() bool { return true }))
	if got, _ := m.Sandbox("a"); got.Name != "old" || len(m.Sandboxes()) != 1 {
		t.Errorf("on record: %q, the first is %+v", m.Sandboxes(), got)
	}
}

func TestInUse(t *testing.T) {
	dir := t.TempDir()
	m := open(t, dir)
	_, _, err := Open(dir)
	var inUse *InUseError
	if !errors.As(err, &inUse) {
		t.Fatalf("second Open: %v", err)
	}
	owner := fmt.Sprintf("%s (pid %d)", filepath.Base(os.Args[0]), os.Getpid())
	if inUse.Dir != dir || inUse.Owner != owner {
		t.Errorf("%+v, want the owner %q", inUse, owner)
	}
	for _, part := range []string{dir, owner, "--state-dir"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q does not say %q", err, part)
		}
	}
	must(t, m.Close())
	open(t, dir)
}

// TestInUseLeftOver has a lock file of a process with a longer name left
// behind.
func TestInUseLeftOver(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "lock"), []byte(strings.Repeat("long", 100)), 0o600))
	open(t, dir)
	var inUse *InUseError
	if _, _, err := Open(dir); !errors.As(err, &inUse) || strings.Contains(inUse.Owner, "long") {
		t.Errorf("Open: %v", err)
	}
}

func TestDamagedRecords(t *testing.T) {
	dir := t.TempDir()
	m := open(t, dir)
	for _, id := range []string{"a", "bad", "../hostile", "empty", "z"} {
		must(t, m.PutContainer(container(id, 1)))
	}
	must(t, m.PutSandbox(Sandbox{ID: "good"}))
	must(t, m.PutSandbox(Sandbox{ID: "bad"}))
	must(t, m.Close())
	bad := []string{
		filepath.Join(m.containerDir(), "bad.json"),
		filepath.Join(m.containerDir(), "empty.json"),
		filepath.Join(m.sandboxDir(), "bad.json"),
	}
	must(t, os.Truncate(bad[0], 30))
	must(t, os.Truncate(bad[1], 0))
	must(t, os.WriteFile(bad[2], make([]byte, 512), 0o600))
	must(t, os.WriteFile(filepath.Join(m.containerDir(), ".tmp-12"), []byte("{"), 0o600))

	m, damaged, err := Open(dir)
	must(t, err)
	defer m.Close()
	var aside []string
	for _, err := range damaged {
		var d *statefile.DamagedError
		if !errors.As(err, &d) {
			t.Errorf("damaged: %v", err)
			continue
		}
		aside = append(aside, strings.TrimSuffix(d.Aside, ".damaged"))
	}
	if !reflect.DeepEqual(aside, bad) {
		t.Errorf("set aside %q, want %q", aside, bad)
	}
	for _, id := range []string{"a", "../hostile", "z"} {
		expectContainer(t, m, container(id, 1))
	}
	if n := len(m.Containers()); n != 3 {
		t.Errorf("%d containers", n)
	}
	if got := m.Sandboxes(); !reflect.DeepEqual(got, []string{"good"}) {
		t.Errorf("sandboxes %q", got)
	}
	must(t, m.Close())
	open(t, dir) // once told, it is told no more
}

func TestHostileIDs(t *testing.T) {
	parent := t.TempDir()
	dir := filepath.Join(parent, "state")
	m := open(t, dir)
	ids := []string{"", ".", "..", "../lock", "../../x", "/etc/passwd", "a/b", "a\x00b", "sha256-x", "x.json", ".tmp-1", "*", strings.Repeat("x", 1<<12)}
	for i, id := range ids {
		must(t, m.PutContainer(container(id, uint32(i))))
		must(t, m.PutSandbox(Sandbox{ID: id, Name: strconv.Itoa(i)}))
	}
	for range 2 {
		for i, id := range ids {
			expectContainer(t, m, container(id, uint32(i)))
			if s, ok := m.Sandbox(id); !ok || s.Name != strconv.Itoa(i) {
				t.Errorf("sandbox %q: %+v, %v", id, s, ok)
			}
		}
		must(t, m.Close())
		m = open(t, dir)
	}
	for _, id := range ids {
		must(t, m.RemoveContainer(id))
		must(t, m.RemoveSandbox(id))
		must(t, m.PutAttempt(Attempt{ID: id}))
		must(t, m.RemoveAttempt(id))
	}
	for d, want := range map[string][]string{
		parent:           {"state"},
		dir:              {"attempts", "containers", "lock", "sandboxes"},
		m.attemptDir():   nil,
		m.containerDir(): nil,
		m.sandboxDir():   nil,
	} {
		entries, err := os.ReadDir(d)
		must(t, err)
		var got []string
		for _, e := range entries {
			got = append(got, e.Name())
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s holds %q, want %q", d, got, want)
		}
	}
}

// TestRead reads what another has open. A reader changes nothing: what it finds
// damaged is for the owner to set aside, who may be about to replace it.
func TestRead(t *testing.T) {
	dir := t.TempDir()
	if got, err := Read(dir); err != nil || len(got) != 0 {
		t.Errorf("Read of nothing: %v, %v", got, err)
	}
	m := open(t, dir)
	must(t, m.PutContainer(container("a", 1)))
	must(t, m.PutContainer(container("b", 2)))
	bad := filepath.Join(m.containerDir(), "bad.json")
	tmp := filepath.Join(m.containerDir(), ".tmp-1")
	must(t, os.WriteFile(bad, []byte(`{"version":`), 0o600))
	must(t, os.WriteFile(tmp, nil, 0o600))
	got, err := Read(dir)
	if err != nil || len(got) != 2 {
		t.Errorf("Read: %+v, %v", got, err)
	}
	for _, c := range got {
		expectContainer(t, m, c)
	}
	for _, path := range []string{bad, tmp} {
		if _, err := os.Stat(path); err != nil {
			t.Errorf("Read has moved a file: %v", err)
		}
	}
	must(t, m.PutContainer(container("c", 3)))
	if got, err := Read(dir); err != nil || len(got) != 3 {
		t.Errorf("Read: %+v, %v", got, err)
	}
}

func TestConcurrentUse(t *testing.T) {
	dir := t.TempDir()
	m := open(t, dir)
	const goroutines, rounds = 8, 12
	added := make(chan int, goroutines)
	var wg sync.WaitGroup
	for g := range goroutines {
		wg.Go(func() {
			own := strconv.Itoa(g)
			if ok, err := m.AddContainer(container("contested", uint32(g)), never); err != nil {
				t.Error(err)
			} else if ok {
				added <- g
			}
			for i := range rounds {
				if err := errors.Join(
					m.PutContainer(container(own, uint32(i))),
					m.PutContainer(container("shared", uint32(i))),
					m.PutSandbox(Sandbox{ID: own}),
					m.RemoveSandbox(own),
				); err != nil {
					t.Error(err)
				}
				expectContainer(t, m, container(own, uint32(i)))
				m.Containers()
				m.Sandboxes()
				m.Sandbox(own)
				if _, err := Read(dir); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	close(added)
	if len(added) != 1 {
		t.Errorf("added %d times", len(added))
	}
	for g := range added {
		expectContainer(t, m, container("contested", uint32(g)))
	}
	inMemory := m.Containers()
	must(t, m.Close())
	if onDisk := open(t, dir).Containers(); !reflect.DeepEqual(onDisk, inMemory) || len(onDisk) != goroutines+2 {
		t.Errorf("on disk %+v, in memory %+v", onDisk, inMemory)
	}
}

// TestKilled kills a process that writes records with SIGKILL, again and
// again. All that it was told to be on record is there.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	for range 20 {
		child := exec.Command(os.Args[0], "-test.run=^$")
		child.Env = append(os.Environ(), childDir+"="+dir)
		child.Stderr = os.Stderr
		out, err := child.StdoutPipe()
		must(t, err)
		must(t, child.Start())
		lines := bufio.NewScanner(out)
		var last uint32
		next := func() bool {
			if !lines.Scan() {
				return false
			}
			n, err := strconv.ParseUint(lines.Text(), 10, 32)
			must(t, err)
			last = uint32(n)
			return true
		}
		for range 1 + rand.IntN(20) {
			if !next() {
				t.Fatal("the child has stopped")
			}
			if rand.IntN(4) == 0 {
				if _, err := Read(dir); err != nil {
					t.Errorf("Read: %v", err)
				}
			}
		}
		must(t, child.Process.Kill())
		for next() {
		}
		_ = child.Wait() // it was killed

		m, damaged, err := Open(dir)
		must(t, errors.Join(append(damaged, err)...))
		for attempt := last; attempt > 0 && attempt+childIDs > last; attempt-- {
			id := fmt.Sprintf("c%d", attempt%childIDs)
			c, _ := m.Container(id)
			// One more may be there, whose line it could not print any more.
			if c.Attempt != attempt && (c.Attempt != last+1 || c.Attempt%childIDs != attempt%childIDs) {
				t.Errorf("container %s is of attempt %d, want %d", id, c.Attempt, attempt)
			}
			expectContainer(t, m, container(id, c.Attempt))
			if s, _ := m.Sandbox("s" + id); s.Name != strconv.Itoa(int(attempt)) && s.Name != strconv.Itoa(int(last+1)) {
				t.Errorf("sandbox of %s is %+v, want attempt %d", id, s, attempt)
			}
		}
		for _, d := range []string{m.containerDir(), m.sandboxDir()} {
			entries, err := os.ReadDir(d)
			must(t, err)
			for _, e := range entries {
				if !strings.HasSuffix(e.Name(), statefile.Suffix) {
					t.Errorf("left over: %s", e.Name())
				}
			}
		}
		must(t, m.Close())
	}
}
