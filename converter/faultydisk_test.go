package converter

import (
	"fmt"
	"strconv"
	"sync"
	"syscall"
)

// faultyDisk opens container logs whose writes fail, or hang, on demand. It shows what a
// real full disk does only by chance: a write cut short at a given byte.
type faultyDisk struct {
	mu    sync.Mutex
	err   error
	space int // bytes that still fit while err is set
}

var errnos = map[string]error{"ENOSPC": syscall.ENOSPC, "EDQUOT": syscall.EDQUOT, "EIO": syscall.EIO, "EROFS": syscall.EROFS}

func (d *faultyDisk) fail(space, errno string) error {
	n, err := strconv.Atoi(space)
	if err != nil {
		return err
	}
	if errnos[errno] == nil {
		return fmt.Errorf("unknown errno %s", errno)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.space, d.err = n, errnos[errno]
	return nil
}

func (d *faultyDisk) heal() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.err = nil
}

// hang has every write hang until release is called.
func (d *faultyDisk) hang() (release func()) {
	d.mu.Lock()
	return d.mu.Unlock
}

func (d *faultyDisk) open(root, rel string, flag int) (logFile, error) {
	f, err := openLog(root, rel, flag)
	if err != nil {
		return nil, err
	}
	return &faultyFile{logFile: f, disk: d}, nil
}

type faultyFile struct {
	logFile
	disk *faultyDisk
}

func (f *faultyFile) Write(b []byte) (int, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if f.disk.err == nil {
		return f.logFile.Write(b)
	}
	n, err := f.logFile.Write(b[:min(len(b), f.disk.space)])
	f.disk.space -= n
	if err == nil && n < len(b) {
		err = f.disk.err
	}
	return n, err
}
