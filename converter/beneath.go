package converter

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// UnsafePathError says that a path was refused, by which rule, and what to do.
type UnsafePathError struct {
	Path, Rule, Remedy string
}

func (e *UnsafePathError) Error() string {
	return fmt.Sprintf("%s: refused: %s; %s", e.Path, e.Rule, e.Remedy)
}

// openBeneath opens the file rel below the directory root. It follows no
// symlink below root and opens regular files only: whoever can write there must
// not make a root process read /etc/shadow into a log, or append to it. root
// itself may be a symlink. A refused path is an *UnsafePathError.
func openBeneath(root, rel string, flag int, perm fs.FileMode) (*os.File, error) {
	if !filepath.IsLocal(rel) || filepath.Clean(rel) != rel {
		return nil, &UnsafePathError{filepath.Join(root, rel), "the path leaves " + root, "use a clean relative path"}
	}
	dir, err := os.OpenRoot(root)
	if err != nil {
		return nil, err
	}
	defer func() { dir.Close() }()
	parts := strings.Split(rel, string(filepath.Separator))
	for i, part := range parts[:len(parts)-1] {
		next, err := openDir(dir, part, filepath.Join(root, filepath.Join(parts[:i+1]...)))
		if err != nil {
			return nil, err
		}
		dir.Close()
		dir = next
	}
	return openRegular(dir, parts[len(parts)-1], filepath.Join(root, rel), flag, perm)
}

// openDir opens the directory name in parent, not through a symlink. path is
// for the error.
func openDir(parent *os.Root, name, path string) (*os.Root, error) {
	before, err := parent.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !before.IsDir() {
		return nil, &UnsafePathError{path, "it is a " + kindOf(before) + ", not a directory", "replace it by a real directory"}
	}
	dir, err := parent.OpenRoot(name)
	if err != nil {
		return nil, err
	}
	after, err := dir.Stat(".")
	if err == nil && !os.SameFile(before, after) {
		err = &UnsafePathError{path, "it was replaced while it was opened", "find out who writes there"}
	}
	if err != nil {
		dir.Close()
		return nil, err
	}
	return dir, nil
}

// openRegular opens or creates the regular file name in dir, not through a
// symlink, and never waits for the other end of a FIFO.
func openRegular(dir *os.Root, name, path string, flag int, perm fs.FileMode) (*os.File, error) {
	refuse := func(fi fs.FileInfo) error {
		return &UnsafePathError{path, "it is a " + kindOf(fi) + ", not a regular file", "remove it; the next start of the VM makes a new one"}
	}
	before, err := dir.Lstat(name)
	if err == nil && !before.Mode().IsRegular() {
		return nil, refuse(before)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	f, err := dir.OpenFile(name, flag|syscall.O_NONBLOCK|syscall.O_NOCTTY, perm)
	if err != nil {
		return nil, err
	}
	opened, err := f.Stat()
	if err == nil {
		var now fs.FileInfo
		switch now, err = dir.Lstat(name); {
		case err != nil:
		case !now.Mode().IsRegular():
			err = refuse(now)
		case !os.SameFile(opened, now):
			// Rotated in between: what was asked for is not there any more.
			err = &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func kindOf(fi fs.FileInfo) string {
	switch fi.Mode().Type() {
	case 0:
		return "regular file"
	case fs.ModeDir:
		return "directory"
	case fs.ModeSymlink:
		return "symlink"
	case fs.ModeNamedPipe:
		return "FIFO"
	case fs.ModeSocket:
		return "socket"
	}
	return "device"
}
