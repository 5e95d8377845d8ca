package main

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"
)

// child is this program again, as another process.
func child(name string, args ...string) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), childEnv+"="+name)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd, nil
}

// writeBytes is QEMU's serial port: it appends to a file, one byte per write(2),
// at a given rate for a given number of seconds.
func writeBytes(args []string) error {
	path, rate, seconds, err := parseWriter(args)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	text := consoleText(1 << 20)
	start := time.Now()
	for n := 0; ; n++ {
		if n%1000 == 0 {
			ahead := time.Duration(n)*time.Second/time.Duration(rate) - time.Since(start)
			if ahead > 0 {
				time.Sleep(ahead)
			}
			if time.Since(start) > time.Duration(seconds)*time.Second {
				fmt.Println(n)
				return nil
			}
		}
		if _, err := f.Write(text[n%len(text) : n%len(text)+1]); err != nil {
			return err
		}
	}
}

// writeFlood appends to a file in large pieces, at a given rate in bytes per
// second.
func writeFlood(args []string) error {
	path, rate, seconds, err := parseWriter(args)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	text := consoleText(64 << 10)
	start := time.Now()
	for n := 0; time.Since(start) < time.Duration(seconds)*time.Second; n += len(text) {
		if ahead := time.Duration(float64(n)/float64(rate)*1e9) - time.Since(start); ahead > 0 {
			time.Sleep(ahead)
		}
		if _, err := f.Write(text); err != nil {
			return err
		}
	}
	return nil
}

func parseWriter(args []string) (path string, rate, seconds int, err error) {
	if len(args) != 3 {
		return "", 0, 0, fmt.Errorf("want PATH RATE SECONDS, have %q", args)
	}
	if rate, err = strconv.Atoi(args[1]); err != nil {
		return "", 0, 0, err
	}
	seconds, err = strconv.Atoi(args[2])
	return args[0], rate, seconds, err
}

// cpuTime is the CPU time that this process has used.
func cpuTime() (time.Duration, error) {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0, err
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), nil
}
