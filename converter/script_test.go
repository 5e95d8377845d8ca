package converter

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write what the scripts of testdata/worker show as what they must show")

// A script of testdata/worker moves files and a converter, and shows what a
// container log holds then. Lines that begin with ">" are output: what the
// `log` command above them printed. The commands:
//
//	format json           of new logs, before begin
//	begin N [appends]     StartContainer of attempt N: raw logs _N.log or _0.log;
//	                      the VM's start does not empty the raw log
//	begin                 the same attempt again
//	write [N] "…"         the VM writes to _N.log (0 by default)
//	truncate, delete [N]  what libvirt does to the raw log at start
//	mv A B                rename a raw log
//	link A TARGET, fifo A plant something as a raw log
//	rotate NAME           kubelet renames the log of the attempt to NAME
//	rotate-back NAME      kubelet renames it back
//	rm-log, rm NAME       kubelet deletes it, or a rotated one
//	freeze-state, thaw-state
//	                      no checkpoint can be written; one can again
//	torn "…"              append to the log what a crash in mid-write leaves
//	reopen                ReopenContainerLog
//	drain, idle           as at StopContainer; as after the idle time
//	sync                  convert whole lines, as it would by itself
//	fail N ERRNO, heal    the disk takes N more bytes, then fails; is well again
//	stop, crash           the process ends, well or not
//	resume                and is there again
//	forget                RemoveContainer
//	log [NAME]            print the records of a log, times left out
type workerScript struct {
	t       testing.TB
	dir     string
	manager *Manager
	format  Format
	attempt int
	appends bool
	disk    *faultyDisk
}

func (s *workerScript) raw(n string) string {
	if !strings.Contains(n, ".log") {
		n += ".log"
	}
	return filepath.Join(s.dir, "raw", "sandbox", "_"+n)
}

func (s *workerScript) log(name string) string {
	if name == "" {
		name = strconv.Itoa(s.attempt) + ".log"
	}
	return filepath.Join(s.dir, "pods", "pod", "vm", name)
}

func (s *workerScript) checkpoints() string { return filepath.Join(s.dir, "state", "checkpoints") }

func (s *workerScript) run() Run {
	r := Run{ContainerID: "c1", RawAppends: s.appends, LogName: "pod/vm/" + strconv.Itoa(s.attempt) + ".log"}
	for _, n := range []int{s.attempt, 0} {
		r.RawNames = append(r.RawNames, fmt.Sprintf("sandbox/_%d.log", n))
	}
	return r
}

func (s *workerScript) newManager() {
	m, err := NewManager(Config{
		RawRoot: filepath.Join(s.dir, "raw"), LogRoot: filepath.Join(s.dir, "pods"), StateDir: filepath.Join(s.dir, "state"),
		Format: s.format, MaxLine: 16, IdleFlush: time.Hour, openLog: s.disk.open,
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.manager = m
}

// abandon ends a manager as a crash does: nothing is drained or saved.
func (m *Manager) abandon() {
	for _, w := range m.workers {
		_ = w.stop(context.Background())
	}
	m.watcher.close()
}

func (s *workerScript) do(line string) (out string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	f := strings.Fields(line)
	arg := func(i int, def string) string {
		if i < len(f) {
			return f[i]
		}
		return def
	}
	text := func() []byte {
		i := strings.IndexByte(line, '"')
		if i < 0 {
			s.t.Fatalf("%s: no text", line)
		}
		u, err := strconv.Unquote(line[i:])
		if err != nil {
			s.t.Fatalf("%s: %v", line, err)
		}
		return []byte(u)
	}
	inWorker := func(fn func(w *worker) error) error {
		w := s.manager.worker("c1")
		return w.do(ctx, func() error { return fn(w) })
	}
	switch f[0] {
	case "format":
		s.format, err = ParseFormat(f[1])
		if s.manager != nil {
			s.manager.cfg.Format = s.format
		}
	case "begin":
		if s.manager == nil {
			s.newManager()
		}
		s.appends = arg(2, "") == "appends"
		s.attempt, err = strconv.Atoi(arg(1, strconv.Itoa(s.attempt)))
		if err == nil {
			err = s.manager.Begin(ctx, s.run())
		}
	case "write":
		n := "0"
		if !strings.HasPrefix(f[1], `"`) {
			n = f[1]
		}
		err = appendFile(s.raw(n), text())
	case "torn":
		err = appendFile(s.log(""), text())
	case "truncate":
		err = os.Truncate(s.raw(arg(1, "0")), 0)
	case "delete":
		err = os.Remove(s.raw(arg(1, "0")))
	case "mv":
		err = os.Rename(s.raw(f[1]), s.raw(f[2]))
	case "link":
		err = os.Symlink(f[2], s.raw(f[1]))
	case "fifo":
		err = syscall.Mkfifo(s.raw(f[1]), 0o600)
	case "rotate":
		err = os.Rename(s.log(""), s.log(f[1]))
	case "rotate-back":
		err = os.Rename(s.log(f[1]), s.log(""))
	case "rm-log":
		err = os.Remove(s.log(""))
	case "reopen":
		err = s.manager.Reopen(ctx, "c1")
	case "drain":
		err = s.manager.Drain(ctx, "c1")
	case "idle":
		err = inWorker(func(w *worker) error { _, err := w.convert(FlushIdle); return err })
	case "sync":
		err = inWorker(func(w *worker) error { _, err := w.convert(FlushNone); return err })
	case "rm":
		err = os.Remove(s.log(f[1]))
	case "freeze-state":
		if err = os.Rename(s.checkpoints(), s.checkpoints()+".away"); err == nil {
			err = os.WriteFile(s.checkpoints(), nil, 0o600)
		}
	case "thaw-state":
		if err = os.Remove(s.checkpoints()); err == nil {
			err = os.Rename(s.checkpoints()+".away", s.checkpoints())
		}
	case "fail":
		err = s.disk.fail(f[1], f[2])
	case "heal":
		s.disk.heal()
	case "stop":
		err = s.manager.Close(ctx)
	case "crash":
		s.manager.abandon()
	case "resume":
		s.newManager()
		err = s.manager.Resume(ctx, s.run())
	case "forget":
		err = s.manager.Forget(ctx, "c1")
	case "log":
		return showLog(s.log(arg(1, "")))
	default:
		s.t.Fatalf("unknown command %q", line)
	}
	return "", err
}

func appendFile(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Close())
}

// showLog prints the records of a log, and checks that times do not go back.
func showLog(path string) (string, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "> (no such log)\n", nil
	}
	if err != nil {
		return "", err
	}
	format := CRI
	if bytes.HasPrefix(b, []byte("{")) {
		format = DockerJSON
	}
	var out strings.Builder
	var last time.Time
	for line := range bytes.Lines(b) {
		rec, err := format.decodeRecord(bytes.TrimSuffix(line, []byte("\n")))
		if err != nil || !bytes.HasSuffix(line, []byte("\n")) {
			fmt.Fprintf(&out, "> not a record: %q\n", line)
			continue
		}
		if rec.time.Before(last) {
			fmt.Fprintf(&out, "> time goes back\n")
		}
		last = rec.time
		kind := "F"
		if rec.notice {
			kind = "notice"
		} else if rec.partial {
			kind = "P"
		}
		fmt.Fprintf(&out, "> %s %q\n", kind, rec.content)
	}
	return out.String(), nil
}

func TestWorkerScripts(t *testing.T) {
	scripts, err := filepath.Glob("testdata/worker/*.txt")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, path := range scripts {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			t.Parallel()
			s := &workerScript{t: t, dir: t.TempDir(), disk: &faultyDisk{}}
			for _, d := range []string{"raw/sandbox", "pods/pod/vm"} {
				if err := os.MkdirAll(filepath.Join(s.dir, d), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			script, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			var got strings.Builder
			for line := range strings.Lines(string(script)) {
				if strings.HasPrefix(line, ">") {
					continue
				}
				got.WriteString(line)
				line = strings.TrimSpace(line)
				if line == "" || line[0] == '#' {
					continue
				}
				out, err := s.do(line)
				if err != nil {
					out = fmt.Sprintf("> error: %v\n", err)
				}
				got.WriteString(strings.ReplaceAll(out, s.dir, "DIR"))
			}
			if s.manager != nil && !s.manager.closed {
				s.disk.heal()
				if err := s.manager.Close(t.Context()); err != nil {
					t.Error(err)
				}
			}
			if *update {
				if err := os.WriteFile(path, []byte(got.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if got.String() != string(script) {
				t.Errorf("got:\n%s\nwant:\n%s", got.String(), script)
			}
		})
	}
}
