package box

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

const cgroupRoot = "/sys/fs/cgroup"

// hierarchies returns where cgroups are mounted: one directory, or with cgroup
// v1 one for each controller.
func hierarchies() ([]string, error) {
	if _, err := os.Stat(filepath.Join(cgroupRoot, "cgroup.controllers")); err == nil {
		return []string{cgroupRoot}, nil
	}
	found, err := filepath.Glob(filepath.Join(cgroupRoot, "*", "cgroup.procs"))
	for i := range found {
		found[i] = filepath.Dir(found[i])
	}
	return found, err
}

// makeCgroups makes the parent of the box's cgroups.
func (b *Box) makeCgroups() error {
	roots, err := hierarchies()
	if err != nil {
		return err
	}
	for _, root := range roots {
		dir := filepath.Join(root, b.Cgroup)
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		// In v1 a cpuset without processors takes no process.
		for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
			value, err := os.ReadFile(filepath.Join(root, name))
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, name), value, 0)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// removeCgroups removes what init has left, which is nothing if it came to its
// end.
func (b *Box) removeCgroups() error {
	roots, err := hierarchies()
	if err != nil {
		return err
	}
	var all error
	for _, root := range roots {
		var dirs []string
		err := filepath.WalkDir(filepath.Join(root, b.Cgroup), func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		})
		all = errors.Join(all, err)
		for _, dir := range slices.Backward(dirs) { // what is deeper comes later
			all = errors.Join(all, os.Remove(dir))
		}
	}
	return all
}
