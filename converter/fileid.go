package converter

import (
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// fileID tells one file from another on this machine. A file system may give
// the number of a deleted file to the next one at once, so where it is known
// the time of birth counts, too.
type fileID struct {
	Dev  uint64 `json:"dev"`
	Ino  uint64 `json:"ino"`
	Born int64  `json:"born,omitempty"` // ns; 0 if not known
}

// idOf is the identity of a file without its time of birth.
func idOf(fi fs.FileInfo) fileID {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return fileID{}
	}
	return fileID{Dev: uint64(st.Dev), Ino: st.Ino}
}

// rawID is the identity of the file at path, or of the symlink there.
func rawID(path string) (fileID, error) {
	return statID(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW)
}

// rawIDOf is the identity of an open file.
func rawIDOf(f *os.File) (fileID, error) {
	return statID(int(f.Fd()), "", unix.AT_EMPTY_PATH)
}

func statID(dirFD int, path string, flags int) (fileID, error) {
	var st unix.Statx_t
	if err := unix.Statx(dirFD, path, flags, unix.STATX_INO|unix.STATX_BTIME, &st); err != nil {
		return fileID{}, &fs.PathError{Op: "statx", Path: path, Err: err}
	}
	id := fileID{Dev: unix.Mkdev(st.Dev_major, st.Dev_minor), Ino: st.Ino}
	if st.Mask&unix.STATX_BTIME != 0 {
		id.Born = st.Btime.Sec*1e9 + int64(st.Btime.Nsec)
	}
	return id, nil
}
