package oracle

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/cri-client/pkg/logs"

	"github.com/cri-logproxy/cri-logproxy/converter"
	"github.com/cri-logproxy/cri-logproxy/e2e/await"
)

// follower is `kubectl logs -f`.
type follower struct {
	runtime        runtimeService
	stdout, stderr stream
	ended          chan error
}

func (n *node) follow(opts logs.LogOptions) *follower {
	n.t.Helper()
	f := &follower{ended: make(chan error, 1)}
	opts.Follow = true
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		f.ended <- logs.ReadLogs(ctx, n.log, "c1", &opts, &f.runtime, &f.stdout, &f.stderr)
	}()
	n.t.Cleanup(cancel)
	// It asks for the first time when it has a watch on the directory.
	n.await("the follower at the end of the log", func() bool { return f.runtime.asked.Load() > 0 })
	return f
}

func (n *node) await(what string, cond func() bool) {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), 20*time.Second)
	defer cancel()
	must(n.t, await.Condition(ctx, what, func() (bool, error) { return cond(), nil }))
}

// exit is the VM's end, as the proxy answers it: EXITED only when all is in the
// log. It returns what the follower was shown.
func (n *node) exit(f *follower) (stdout, stderr string) {
	n.t.Helper()
	must(n.t, n.manager.Drain(n.t.Context(), "c1"))
	f.runtime.exited.Store(true)
	select {
	case err := <-f.ended:
		must(n.t, err)
	case <-time.After(20 * time.Second):
		n.t.Fatal("the follower has not ended")
	}
	return f.stdout.String(), f.stderr.String()
}

// rotate is kubelet's rotation: it keeps one second's name for each.
func (n *node) rotate(i int) string {
	n.t.Helper()
	stamp := time.Date(2026, 11, 23, 9, 8, 7, 0, time.UTC).Add(time.Duration(i) * time.Second)
	rotated := n.log + "." + stamp.Format("20060102-150405")
	must(n.t, os.Rename(n.log, rotated))
	must(n.t, n.manager.Reopen(n.t.Context(), "c1"))
	if _, err := os.Stat(n.log); err != nil {
		n.t.Errorf("after ReopenContainerLog: %v", err)
	}
	return rotated
}

// talk has the VM write numbered lines, in pieces, until stop is closed. It
// returns all that was written.
func (n *node) talk(stop <-chan struct{}) (string, error) {
	f, err := os.OpenFile(n.raw, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return "", err
	}
	defer f.Close()
	var said strings.Builder
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-stop:
			return said.String(), nil
		default:
		}
		line := fmt.Sprintf("line %d žluť %s\n", i, strings.Repeat("x", rand.IntN(300)))
		said.WriteString(line)
		for len(line) > 0 {
			k := min(len(line), 1+rand.IntN(200))
			if _, err := f.WriteString(line[:k]); err != nil {
				return "", err
			}
			line = line[k:]
		}
		if rand.IntN(3) == 0 {
			<-tick.C
		}
	}
}

type spoken struct {
	text string
	err  error
}

// TestFollowThroughRotation follows a busy VM's log while kubelet rotates it
// twenty times.
func TestFollowThroughRotation(t *testing.T) {
	for _, format := range formats {
		t.Run(format.String(), func(t *testing.T) {
			t.Parallel()
			n := newNode(t, format)
			n.begin()
			f := n.follow(logs.LogOptions{})
			stop, said := make(chan struct{}), make(chan spoken, 1)
			go func() {
				text, err := n.talk(stop)
				said <- spoken{text, err}
			}()
			var files []string
			for i := range 20 {
				files = append(files, n.rotate(i))
				// kubelet waits 10 s for the next; a reader that has not opened
				// the file by then misses it with any runtime. What the new file
				// holds from now on, it has seen only if it was there.
				fi, err := os.Stat(n.log)
				must(t, err)
				n.await("output in the new file", func() bool {
					now, err := os.Stat(n.log)
					return err == nil && now.Size() > fi.Size()
				})
				first, _ := read(t, n.log, logs.LogOptions{LimitBytes: new(int64(40))})
				line, _, _ := strings.Cut(first, " žluť")
				n.await("the follower in the new file", func() bool { return strings.Contains(f.stdout.String(), line+" ") })
			}
			close(stop)
			want := <-said
			must(t, want.err)
			stdout, stderr := n.exit(f)
			equal(t, "followed", stdout, want.text)
			equal(t, "stderr", stderr, "")
			var all strings.Builder
			for _, path := range append(files, n.log) {
				text, _ := read(t, path, logs.LogOptions{})
				all.WriteString(text)
			}
			equal(t, "all files", all.String(), want.text)
			t.Logf("%d bytes", len(want.text))
			entries, err := os.ReadDir(filepath.Dir(n.log))
			must(t, err)
			if len(entries) != len(files)+1 {
				t.Errorf("%d files in the log directory, kubelet knows of %d", len(entries), len(files)+1)
			}
		})
	}
}

// TestFollowPrompt follows what has no line end, over a rotation: the line ends
// in the old file, for followers and for those who come later.
func TestFollowPrompt(t *testing.T) {
	n := newNode(t, converter.CRI)
	n.config.IdleFlush = 10 * time.Millisecond
	must(t, n.manager.Close(t.Context()))
	n.start()
	n.begin()
	f := n.follow(logs.LogOptions{})
	n.write("boot\r\nlogin: ")
	n.await("the prompt", func() bool { return f.stdout.String() == "boot\nlogin: " })
	n.write("root\r\nPassword: ")
	n.await("the next prompt", func() bool { return f.stdout.String() == "boot\nlogin: root\nPassword: " })
	old := n.rotate(0)
	n.write("\r\n# ")
	n.await("the prompt after it", func() bool { return strings.HasSuffix(f.stdout.String(), "# ") })
	n.write("exit\r\n")
	stdout, _ := n.exit(f)
	equal(t, "followed", stdout, "boot\nlogin: root\nPassword: \n# exit\n")
	text, _ := read(t, old, logs.LogOptions{})
	equal(t, "old file", text, "boot\nlogin: root\nPassword: \n")
	text, _ = read(t, n.log, logs.LogOptions{Timestamp: true})
	if _, after, _ := strings.Cut(text, " "); after != "# exit\n" {
		t.Errorf("new file: %q", text)
	}
}

// TestFollowRestarts follows while the proxy restarts under it.
func TestFollowRestarts(t *testing.T) {
	for _, format := range formats {
		t.Run(format.String(), func(t *testing.T) {
			t.Parallel()
			n := newNode(t, format)
			n.begin()
			f := n.follow(logs.LogOptions{})
			stop, said := make(chan struct{}), make(chan spoken, 1)
			go func() {
				text, err := n.talk(stop)
				said <- spoken{text, err}
			}()
			for range 10 {
				seen := f.stdout.Len()
				n.await("more", func() bool { return f.stdout.Len() > seen })
				must(t, n.manager.Close(t.Context()))
				n.start()
				must(t, n.manager.Resume(t.Context(), n.run))
			}
			close(stop)
			want := <-said
			must(t, want.err)
			stdout, _ := n.exit(f)
			equal(t, "followed", stdout, want.text)
		})
	}
}

// TestFollowTail follows from the last record on, with its time.
func TestFollowTail(t *testing.T) {
	n := newNode(t, converter.CRI)
	n.write("one\ntwo\n")
	n.begin()
	must(t, n.manager.Drain(t.Context(), "c1"))
	last := int64(1)
	f := n.follow(logs.LogOptions{TailLines: &last, Timestamp: true})
	n.write("three\n")
	stdout, _ := n.exit(f)
	var texts []string
	for line := range strings.Lines(stdout) {
		stamp, text, _ := strings.Cut(line, " ")
		if _, err := time.Parse(logs.RFC3339NanoFixed, stamp); err != nil {
			t.Error(err)
		}
		texts = append(texts, text)
	}
	equal(t, "followed", strings.Join(texts, ""), "two\nthree\n")
}
