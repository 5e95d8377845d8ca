package main

import (
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestOwnLogUnwritable has our own log go where nothing can be written: it
// serves all the same, and stops as it should.
func TestOwnLogUnwritable(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	read, unread, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	read.Close()
	defer unread.Close()
	for name, run := range map[string]func(dir string) *exec.Cmd{
		"stderr, full": func(dir string) *exec.Cmd {
			cmd := command(t, flags(dir)...)
			cmd.Stderr = full
			return cmd
		},
		"stderr, nobody reads": func(dir string) *exec.Cmd {
			cmd := command(t, flags(dir)...)
			cmd.Stderr = unread
			return cmd
		},
		"log_dir": func(dir string) *exec.Cmd {
			return mounted(t, command(t, flags(dir, "--logtostderr=false", "--log_dir="+dir+"/disk")...), dir+"/disk", "mount -o remount,size=4k .; echo >fill")
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := newDir(t)
			cmd := run(dir)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			awaitSocket(t, dir+"/proxy.sock")
			if err := stopCommand(cmd); err != nil {
				t.Error(err)
			}
		})
	}
}

// awaitSocket waits until somebody serves at a socket.
func awaitSocket(t *testing.T, path string) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for timeout := time.After(20 * time.Second); ; {
		conn, err := net.Dial("unix", path)
		if err == nil {
			conn.Close()
			return
		}
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatal(err)
		}
	}
}

// TestLogDir has our own log in a file, to which the next process appends.
func TestLogDir(t *testing.T) {
	dir := newDir(t)
	for n := 1; n <= 2; n++ {
		var stderr output
		cmd := command(t, flags(dir, "--logtostderr=false", "--log_dir="+dir)...)
		cmd.Stderr = &stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		awaitSocket(t, dir+"/proxy.sock")
		if err := stopCommand(cmd); err != nil {
			t.Error(err)
		}
		b, err := os.ReadFile(dir + "/" + ownLogFile)
		if err != nil {
			t.Fatal(err)
		}
		log := string(b)
		if strings.Count(log, "serving at ") != n || !strings.HasSuffix(log, "] stopped\n") || stderr.String() != "" {
			t.Errorf("run %d: the log is\n%sand stderr\n%s", n, log, stderr.String())
		}
	}
}

// smallDisk takes room bytes.
type smallDisk struct {
	text strings.Builder
	room int
}

func (d *smallDisk) Write(b []byte) (int, error) {
	n := min(len(b), d.room)
	d.room -= n
	d.text.Write(b[:n])
	if n < len(b) {
		return n, errors.New("no space")
	}
	return n, nil
}

// TestLossyWriter checks that what is missing is said in its place.
func TestLossyWriter(t *testing.T) {
	disk := &smallDisk{room: 6}
	opened := errors.New("no inodes")
	w := &lossyWriter{open: func() (io.Writer, error) { return disk, opened }}
	write := func(s string) {
		if n, err := io.WriteString(w, s); n != len(s) || err != nil {
			t.Errorf("Write: %d, %v", n, err)
		}
	}
	write("one\n")
	opened = nil
	disk.room = 1000
	write("two\n")
	disk.room = 6
	write("three\nfour\n")
	write("five\n")
	disk.room = 1000
	write("six\n")
	write("seven\n")
	const want = "\ncri-logproxy: 1 lines of this log are missing here: no inodes\ntwo\nthree\n" +
		"\ncri-logproxy: 2 lines of this log are missing here: no space\nsix\nseven\n"
	if got := disk.text.String(); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
