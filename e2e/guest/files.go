package guest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cri-logproxy/cri-logproxy/e2e/internal/fsutil"
	"github.com/cri-logproxy/cri-logproxy/e2e/need"
)

const busybox = "/bin/busybox"

// Guest names the files a domain boots from. The paths are absolute.
type Guest struct {
	Kernel string
	Initrd string
}

// Files puts the guest's kernel and initramfs into dir. The kernel comes from
// the user's cache, where the first caller of all puts it with apt-get: that
// takes some seconds and a package mirror.
func Files(ctx context.Context, dir string) (Guest, error) {
	g, err := files(ctx, dir)
	if err != nil {
		return Guest{}, fmt.Errorf("guest: %w", err)
	}
	return g, nil
}

func files(ctx context.Context, dir string) (Guest, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return Guest{}, err
	}
	if err := need.File(busybox, "busybox-static"); err != nil {
		return Guest{}, err
	}
	kernel, err := cachedKernel(ctx)
	if err != nil {
		return Guest{}, fmt.Errorf("kernel: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return Guest{}, err
	}
	g := Guest{Kernel: filepath.Join(dir, "vmlinuz"), Initrd: filepath.Join(dir, "initrd.gz")}
	if err := place(g.Kernel, kernel); err != nil {
		return Guest{}, fmt.Errorf("kernel: %w", err)
	}
	archive, err := initramfs(busybox)
	if err != nil {
		return Guest{}, fmt.Errorf("initramfs: %w", err)
	}
	if err := fsutil.WriteFile(g.Initrd, archive, 0o644); err != nil {
		return Guest{}, fmt.Errorf("initramfs: %w", err)
	}
	return g, nil
}

// place makes dst the same file as src, or a copy where that cannot be.
func place(dst, src string) error {
	err := os.Link(src, dst)
	if err == nil || errors.Is(err, fs.ErrExist) {
		return nil
	}
	return fsutil.CopyFile(dst, src, 0o644)
}
