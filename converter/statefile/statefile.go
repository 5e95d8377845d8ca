// Package statefile keeps small pieces of state, one JSON file each: written
// whole or not at all, checked when read, set aside when damaged.
//
// A file is one line of JSON: {"version":1,"checksum":"…","data":{…}}. The
// checksum is the CRC-32 (Castagnoli) of data as it stands in the file.
package statefile

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
)

// Suffix ends the name of every state file.
const Suffix = ".json"

// asideSuffix ends the name of a file that was set aside.
const asideSuffix = ".damaged"

// tmpPrefix begins the name of a file that Write has not finished.
const tmpPrefix = ".tmp-"

// DamagedError says that a file could not be used and where it is now.
type DamagedError struct {
	Path   string
	Aside  string // where it was moved; empty if that failed, too
	Reason string
}

func (e *DamagedError) Error() string {
	if e.Aside == "" {
		return fmt.Sprintf("state file %s: %s; it could not be set aside: delete it", e.Path, e.Reason)
	}
	return fmt.Sprintf("state file %s: %s; set aside as %s, going on without it", e.Path, e.Reason, e.Aside)
}

type envelope struct {
	Version  int             `json:"version"`
	Checksum string          `json:"checksum"`
	Data     json.RawMessage `json:"data"`
}

var crcTable = crc32.MakeTable(crc32.Castagnoli)

func checksum(data []byte) string {
	return fmt.Sprintf("%08x", crc32.Checksum(data, crcTable))
}

// Encode returns the content of a state file.
func Encode(version int, v any) ([]byte, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(envelope{Version: version, Checksum: checksum(data), Data: data})
	if err != nil {
		return nil, err
	}
	return append(b, '\n'), nil
}

// Decode is the inverse of Encode. version is the newest that the caller reads;
// v must not be used after an error.
func Decode(b []byte, version int, v any) error {
	if len(bytes.Trim(b, "\x00 \n")) == 0 {
		return errors.New("it is empty")
	}
	var e envelope
	if err := json.Unmarshal(b, &e); err != nil {
		return fmt.Errorf("it is not JSON: %w", err)
	}
	if e.Version < 1 || e.Version > version {
		return fmt.Errorf("it is of version %d, this program reads up to %d", e.Version, version)
	}
	if sum := checksum(e.Data); sum != e.Checksum {
		return fmt.Errorf("its checksum is %s, its data say %s", e.Checksum, sum)
	}
	return json.Unmarshal(e.Data, v)
}

// Read reads the file at path. A file that is damaged, or newer than version,
// is renamed and reported as a *DamagedError; one that is not there as
// fs.ErrNotExist.
func Read(path string, version int, v any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := Decode(b, version, v); err != nil {
		damaged := &DamagedError{Path: path, Reason: err.Error()}
		if os.Rename(path, path+asideSuffix) == nil {
			damaged.Aside = path + asideSuffix
		}
		return damaged
	}
	return nil
}

// Peek reads the file at path as Read does, but leaves a damaged one where it
// is: for a process that does not own the state.
func Peek(path string, version int, v any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := Decode(b, version, v); err != nil {
		return fmt.Errorf("state file %s: %w", path, err)
	}
	return nil
}

// IsUnwritable says that err is of a disk that is full or read-only. What is not
// on disk is in the memory of its writer then, who tries again.
func IsUnwritable(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EROFS)
}

// List returns the paths of the state files in dir; none if it is not there.
func List(dir string) ([]string, error) {
	return list(dir, func(name string) bool { return strings.HasSuffix(name, Suffix) })
}

// list is filepath.Glob for a directory that may have meta characters in its
// name, and that must be readable.
func list(dir string, match func(name string) bool) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	var paths []string
	for _, e := range entries {
		if match(e.Name()) {
			paths = append(paths, filepath.Join(dir, e.Name()))
		}
	}
	return paths, err
}

// Write replaces the file at path, and makes its directory if need be. After a
// crash of the process there is the old content or the new one; with durable, the
// same holds after a power cut, and the new one is there once Write has returned.
// The same failure reads the same each time: its error does not name the temporary
// file.
func Write(path string, version int, v any, durable bool) error {
	b, err := Encode(version, v)
	if err != nil {
		return err
	}
	if err := write(path, b, durable); err != nil {
		var errno syscall.Errno
		if errors.As(err, &errno) {
			err = errno
		}
		return &fs.PathError{Op: "write", Path: path, Err: err}
	}
	return nil
}

func write(path string, b []byte, durable bool) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), tmpPrefix+"*")
	if errors.Is(err, fs.ErrNotExist) { // it could not be made until now
		if err = os.MkdirAll(filepath.Dir(path), 0o700); err == nil {
			tmp, err = os.CreateTemp(filepath.Dir(path), tmpPrefix+"*")
		}
	}
	if err != nil {
		return err
	}
	_, err = tmp.Write(b)
	if err == nil && durable {
		err = tmp.Sync()
	}
	err = errors.Join(err, tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		os.Remove(tmp.Name())
		return err
	}
	if durable {
		return syncDir(filepath.Dir(path))
	}
	return nil
}

// Remove deletes the file at path, durably. It is no error if there is none.
func Remove(path string) error {
	err := os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// Clean deletes what an interrupted Write left in dir.
func Clean(dir string) error {
	left, err := list(dir, func(name string) bool { return strings.HasPrefix(name, tmpPrefix) })
	for _, path := range left {
		err = errors.Join(err, os.Remove(path))
	}
	return err
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

var plainID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)

// Name returns the name of the state file for an ID that somebody else chose: a
// plain one is kept readable, any other is hashed, so that it cannot name a
// file elsewhere.
func Name(id string) string {
	if plainID.MatchString(id) && !strings.HasPrefix(id, "sha256-") {
		return id + Suffix
	}
	return fmt.Sprintf("sha256-%x%s", sha256.Sum256([]byte(id)), Suffix)
}
