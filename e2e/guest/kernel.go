package guest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/cri-logproxy/cri-logproxy/e2e/internal/fsutil"
	"github.com/cri-logproxy/cri-logproxy/e2e/need"
)

// metaPackage depends on the current version of Debian's kernel for virtual
// machines. The version changes with every security update, and only the
// current one can be had, so it is looked up and never written down.
const metaPackage = "linux-image-cloud-amd64"

// cachedKernel returns the path of the kernel in the user's cache, having put
// it there if need be. Callers, also in other processes, wait for each other.
func cachedKernel(ctx context.Context) (string, error) {
	if runtime.GOARCH != "amd64" {
		return "", &need.MissingError{What: "a guest kernel for " + runtime.GOARCH, Remedy: "run on amd64"}
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "cri-logproxy", "guest")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	kernel := filepath.Join(dir, "vmlinuz")
	if isFile(kernel) {
		return kernel, nil
	}
	unlock, err := fsutil.Lock(ctx, filepath.Join(dir, "lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	if isFile(kernel) { // somebody else was faster
		return kernel, nil
	}
	if err := fetchKernel(ctx, dir, kernel); err != nil {
		return "", err
	}
	return kernel, nil
}

// fetchKernel downloads the kernel's package, unpacks it aside and puts the
// kernel at dst.
func fetchKernel(ctx context.Context, dir, dst string) error {
	err := errors.Join(need.Command("apt-get", "apt"), need.Command("apt-cache", "apt"), need.Command("dpkg", "dpkg"))
	if err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(dir, "fetch")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if err := download(ctx, tmp); err != nil {
		// The lists are missing, or older than the archive.
		if _, updateErr := run(ctx, "", "apt-get", "update", "-qq"); updateErr != nil {
			return errors.Join(err, updateErr)
		}
		if err := download(ctx, tmp); err != nil {
			return err
		}
	}
	deb, err := only(filepath.Join(tmp, "*.deb"))
	if err != nil {
		return err
	}
	if _, err := run(ctx, tmp, "dpkg", "-x", deb, "unpacked"); err != nil {
		return err
	}
	image, err := only(filepath.Join(tmp, "unpacked", "boot", "vmlinuz-*"))
	if err != nil {
		return err
	}
	return fsutil.CopyFile(dst, image, 0o644)
}

// download puts the kernel's package into dir.
func download(ctx context.Context, dir string) error {
	pkg, err := kernelPackage(ctx)
	if err != nil {
		return err
	}
	_, err = run(ctx, dir, "apt-get", "download", "-qq", pkg)
	return err
}

// kernelPackage returns the versioned package that the meta package names.
func kernelPackage(ctx context.Context) (string, error) {
	missing := &need.MissingError{What: "the Debian package " + metaPackage, Remedy: "apt-get update"}
	out, err := run(ctx, "", "apt-cache", "depends", metaPackage)
	if err != nil {
		return "", fmt.Errorf("%w (%w)", missing, err)
	}
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		if pkg, ok := strings.CutPrefix(strings.TrimSpace(lines.Text()), "Depends: "); ok {
			return pkg, nil
		}
	}
	return "", missing
}

func run(ctx context.Context, dir, name string, args ...string) ([]byte, error) {
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Stderr = dir, &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%v: %w: %s", cmd.Args, err, bytes.TrimSpace(stderr.Bytes()))
	}
	return out, nil
}

func only(pattern string) (string, error) {
	found, err := filepath.Glob(pattern)
	if err != nil {
		return "", err
	}
	if len(found) != 1 {
		return "", fmt.Errorf("%d files match %s, want one", len(found), pattern)
	}
	return found[0], nil
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}
