package converter

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// eventually looks at cond until it holds.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	timeout := time.After(patience)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-timeout:
			t.Fatalf("not after %v: %s", patience, what)
		case <-tick.C:
		}
	}
}

// soon is eventually, but well before the slow look could be the reason.
func soon(t testing.TB, what string, cond func() bool) {
	t.Helper()
	start := time.Now()
	eventually(t, what, cond)
	if d := time.Since(start); d > lookInterval/2 {
		t.Errorf("%s: took %v", what, d)
	}
}

// node is directories and a Manager that converts between them by itself.
type node struct {
	t       testing.TB
	dir     string
	config  Config
	manager *Manager
}

func newNode(t testing.TB, config Config) *node {
	n := &node{t: t, dir: t.TempDir(), config: config}
	n.config.RawRoot, n.config.LogRoot, n.config.StateDir = n.path("raw"), n.path("pods"), n.path("state")
	for _, d := range []string{"raw/sandbox", "pods/pod/vm"} {
		must(t, os.MkdirAll(n.path(d), 0o755))
	}
	n.start()
	t.Cleanup(func() {
		if err := n.manager.Close(context.Background()); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return n
}

func (n *node) path(rel string) string { return filepath.Join(n.dir, rel) }

func (n *node) start() {
	n.t.Helper()
	var err error
	n.manager, err = NewManager(n.config)
	must(n.t, err)
}

func (n *node) restart(run Run) {
	n.t.Helper()
	must(n.t, n.manager.Close(n.t.Context()))
	n.start()
	must(n.t, n.manager.Resume(n.t.Context(), run))
}

// vm is one container's files.
func (n *node) vm(id string) Run {
	return Run{ContainerID: id, RawNames: []string{"sandbox/" + id + ".log"}, LogName: "pod/vm/" + id + ".log"}
}

func (n *node) begin(id string) Run {
	n.t.Helper()
	run := n.vm(id)
	must(n.t, n.manager.Begin(n.t.Context(), run))
	return run
}

func (n *node) write(id, text string) {
	n.t.Helper()
	must(n.t, appendFile(n.path("raw/sandbox/"+id+".log"), []byte(text)))
}

// records returns what is in a container log, without notices.
func (n *node) records(name string) []record {
	n.t.Helper()
	b, err := os.ReadFile(n.path("pods/pod/vm/" + name))
	must(n.t, err)
	format := CRI
	if bytes.HasPrefix(b, []byte("{")) {
		format = DockerJSON
	}
	var list []record
	for line := range bytes.Lines(b) {
		line, whole := bytes.CutSuffix(line, []byte("\n"))
		if !whole {
			continue // being written
		}
		rec, err := format.decodeRecord(line)
		must(n.t, err)
		if !rec.notice {
			list = append(list, rec)
		}
	}
	return list
}

// text joins the records of a container log as kubelet does.
func (n *node) text(name string) string {
	n.t.Helper()
	var b bytes.Buffer
	for _, rec := range n.records(name) {
		b.Write(rec.content)
		if !rec.partial {
			b.WriteByte('\n')
		}
	}
	return b.String()
}

func (n *node) logSize(name string) int64 {
	n.t.Helper()
	fi, err := os.Stat(n.path("pods/pod/vm/" + name))
	must(n.t, err)
	return fi.Size()
}

func (n *node) expectText(name, want string) {
	n.t.Helper()
	if got := n.text(name); got != want {
		n.t.Errorf("%s: %s", name, difference(got, want))
	}
}

// difference shows where two texts part.
func difference(got, want string) string {
	at := 0
	for at < len(got) && at < len(want) && got[at] == want[at] {
		at++
	}
	from := max(0, at-40)
	part := func(s string) string { return s[from:min(len(s), at+40)] }
	return fmt.Sprintf("%d bytes, want %d; from byte %d: %q, want %q", len(got), len(want), from, part(got), part(want))
}
