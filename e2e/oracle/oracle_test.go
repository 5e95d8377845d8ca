package oracle

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-client/pkg/logs"

	"github.com/cri-logproxy/cri-logproxy/converter"
	"github.com/cri-logproxy/cri-logproxy/converter/convertertest"
)

var formats = []converter.Format{converter.CRI, converter.DockerJSON}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// runtimeService is the part of a runtime that a follower asks.
type runtimeService struct {
	internalapi.RuntimeService
	exited atomic.Bool
	asked  atomic.Int64
}

func (r *runtimeService) ContainerStatus(context.Context, string, bool) (*runtimeapi.ContainerStatusResponse, error) {
	r.asked.Add(1)
	state := runtimeapi.ContainerState_CONTAINER_RUNNING
	if r.exited.Load() {
		state = runtimeapi.ContainerState_CONTAINER_EXITED
	}
	return &runtimeapi.ContainerStatusResponse{Status: &runtimeapi.ContainerStatus{State: state}}, nil
}

// stream is what a reader of a log has been given so far.
type stream struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (s *stream) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(b)
}

func (s *stream) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}

func (s *stream) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Len()
}

// read is `kubectl logs` of the file at path.
func read(t *testing.T, path string, opts logs.LogOptions) (stdout, stderr string) {
	t.Helper()
	var out, errs stream
	must(t, logs.ReadLogs(t.Context(), path, "", &opts, nil, &out, &errs))
	return out.String(), errs.String()
}

func writeLog(t *testing.T, log []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "0.log")
	must(t, os.WriteFile(path, log, 0o600))
	return path
}

// equal compares texts and shows where they part.
func equal(t *testing.T, what, got, want string) {
	t.Helper()
	if got == want {
		return
	}
	at := 0
	for at < len(got) && at < len(want) && got[at] == want[at] {
		at++
	}
	from := max(0, at-60)
	part := func(s string) string { return s[min(from, len(s)):min(len(s), at+60)] }
	t.Errorf("%s: %d bytes, want %d; from byte %d: %q, want %q", what, len(got), len(want), from, part(got), part(want))
}

// shown is what kubelet must show of lines.
func shown(format converter.Format, lines []converter.Line) (stdout, stderr string) {
	var out, errs strings.Builder
	for _, l := range lines {
		switch {
		case l.Hole > 0:
			fmt.Fprintf(&errs, "[cri-logproxy] skipped %d NUL bytes: a hole in the raw log\n", l.Hole)
			continue
		case format == converter.DockerJSON:
			out.WriteString(string([]rune(string(l.Content)))) // each bad byte is U+FFFD
		default:
			out.Write(l.Content)
		}
		if !l.Partial {
			out.WriteByte('\n')
		}
	}
	return out.String(), errs.String()
}

func TestScripts(t *testing.T) {
	for _, s := range convertertest.ReadScripts(t, "../../converter/testdata/convert") {
		for _, format := range formats {
			t.Run(s.Name+"/"+format.String(), func(t *testing.T) {
				e := converter.Encoder{Format: format}
				e.SetTime(time.Now())
				var log []byte
				for _, l := range s.Lines(7) {
					log = e.Append(log, l)
				}
				stdout, stderr := read(t, writeLog(t, log), logs.LogOptions{})
				wantOut, wantErr := shown(format, s.Want)
				equal(t, "stdout", stdout, wantOut)
				equal(t, "stderr", stderr, wantErr)
			})
		}
	}
}

// TestEveryByte has lines of all bytes but the line end, in all places.
func TestEveryByte(t *testing.T) {
	var lines []converter.Line
	for b := range 256 {
		if b == '\n' {
			continue
		}
		c := byte(b)
		for _, content := range [][]byte{{c}, {c, c, 'x'}, {'x', c, 'y'}, {'x', c}, {0xe6, 0x97, c}} {
			lines = append(lines, converter.Line{Content: content}, converter.Line{Content: content, Partial: true})
		}
		lines = append(lines, converter.Line{})
	}
	for _, format := range formats {
		e := converter.Encoder{Format: format}
		e.SetTime(time.Now())
		var log []byte
		for _, l := range lines {
			log = e.Append(log, l)
		}
		stdout, _ := read(t, writeLog(t, log), logs.LogOptions{})
		want, _ := shown(format, lines)
		equal(t, format.String(), stdout, want)
	}
}

// TestOptions reads a log of ours as `kubectl logs` with its options does.
func TestOptions(t *testing.T) {
	start := time.Date(2026, 11, 23, 9, 8, 7, 0, time.UTC)
	for _, format := range formats {
		t.Run(format.String(), func(t *testing.T) {
			e := converter.Encoder{Format: format}
			var log []byte
			add := func(second int, l converter.Line) {
				e.SetTime(start.Add(time.Duration(second)*time.Second + 50*time.Millisecond))
				log = e.Append(log, l)
			}
			add(0, converter.Line{Content: []byte("first")})
			add(1, converter.Line{Content: []byte("login: "), Partial: true})
			add(2, converter.Line{Content: []byte("root")})
			add(3, converter.Line{})
			add(4, converter.Line{Content: []byte("last")})
			path := writeLog(t, log)
			number := func(n int64) *int64 { return &n }
			for name, c := range map[string]struct {
				opts logs.LogOptions
				want string
			}{
				"tail 0": {logs.LogOptions{TailLines: number(0)}, ""},
				"tail 1": {logs.LogOptions{TailLines: number(1)}, "last\n"},
				// kubelet counts records.
				"tail 3":   {logs.LogOptions{TailLines: number(3)}, "root\n\nlast\n"},
				"tail 99":  {logs.LogOptions{TailLines: number(99)}, "first\nlogin: root\n\nlast\n"},
				"since":    {logs.LogOptions{Since: start.Add(3 * time.Second)}, "\nlast\n"},
				"since at": {logs.LogOptions{Since: start.Add(4*time.Second + 50*time.Millisecond)}, "last\n"},
				"future":   {logs.LogOptions{Since: start.Add(time.Hour)}, ""},
				"limit":    {logs.LogOptions{LimitBytes: number(8)}, "first\nlo"},
				"timestamps": {logs.LogOptions{Timestamp: true}, "2026-11-23T09:08:07.050000000Z first\n" +
					"2026-11-23T09:08:08.050000000Z login: root\n" +
					"2026-11-23T09:08:10.050000000Z \n" +
					"2026-11-23T09:08:11.050000000Z last\n"},
				"timestamps and tail": {logs.LogOptions{Timestamp: true, TailLines: number(1)}, "2026-11-23T09:08:11.050000000Z last\n"},
			} {
				stdout, stderr := read(t, path, c.opts)
				equal(t, name, stdout, c.want)
				equal(t, name+", stderr", stderr, "")
			}
		})
	}
}

// TestEmpty reads the log of a VM that has said nothing.
func TestEmpty(t *testing.T) {
	n := newNode(t, converter.CRI)
	n.begin()
	stdout, stderr := read(t, n.log, logs.LogOptions{})
	equal(t, "stdout", stdout, "")
	equal(t, "stderr", stderr, "")
}

// node is a Manager and the files of one VM.
type node struct {
	t        *testing.T
	config   converter.Config
	manager  *converter.Manager
	run      converter.Run
	raw, log string
}

func newNode(t *testing.T, format converter.Format) *node {
	dir := t.TempDir()
	n := &node{
		t: t,
		config: converter.Config{
			RawRoot: filepath.Join(dir, "raw"), LogRoot: filepath.Join(dir, "pods"), StateDir: filepath.Join(dir, "state"),
			Format: format, IdleFlush: time.Hour,
		},
		run: converter.Run{ContainerID: "c1", RawNames: []string{"sandbox/_0.log"}, LogName: "pod/vm/0.log"},
		raw: filepath.Join(dir, "raw/sandbox/_0.log"),
		log: filepath.Join(dir, "pods/pod/vm/0.log"),
	}
	must(t, os.MkdirAll(filepath.Dir(n.raw), 0o755))
	must(t, os.MkdirAll(filepath.Dir(n.log), 0o755))
	n.start()
	t.Cleanup(func() { must(t, n.manager.Close(context.Background())) })
	return n
}

func (n *node) start() {
	n.t.Helper()
	var err error
	n.manager, err = converter.NewManager(n.config)
	must(n.t, err)
}

func (n *node) begin() {
	n.t.Helper()
	must(n.t, n.manager.Begin(n.t.Context(), n.run))
}

func (n *node) write(text string) {
	n.t.Helper()
	must(n.t, appendTo(n.raw, text))
}

func appendTo(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.WriteString(f, text)
	return err
}

// TestTorn resumes with a log whose only record a crash has torn, at each byte:
// kubelet takes the format from the first line, so none of it may stay.
func TestTorn(t *testing.T) {
	for _, format := range formats {
		t.Run(format.String(), func(t *testing.T) {
			e := converter.Encoder{Format: format}
			e.SetTime(time.Now())
			record := e.Append(nil, converter.Line{Content: []byte("torn")})
			n := newNode(t, format)
			n.begin()
			n.write("one\n")
			for cut := 1; cut < len(record); cut += 9 {
				must(t, n.manager.Close(t.Context()))
				must(t, os.Truncate(n.log, 0))
				must(t, appendTo(n.log, string(record[:cut])))
				must(t, os.RemoveAll(n.config.StateDir))
				n.start()
				must(t, n.manager.Resume(t.Context(), n.run))
				must(t, n.manager.Drain(t.Context(), "c1"))
				stdout, _ := read(t, n.log, logs.LogOptions{})
				equal(t, fmt.Sprintf("cut to %d bytes", cut), stdout, "one\n")
			}
		})
	}
}
