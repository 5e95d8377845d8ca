package libvirtd

import (
	"os"
	"path/filepath"

	"github.com/cri-logproxy/cri-logproxy/e2e/internal/fsutil"
)

// The first call to a libvirtd that does not know its QEMU takes seconds of
// CPU time: it starts QEMU and asks what it can do. The answers are kept in the
// user's cache and given to each new instance. libvirtd itself checks that they
// still fit the QEMU at hand, so a stale cache costs time, never correctness,
// and errors here are of no consequence.

const capabilities = "var/cache/libvirt/qemu"

func seedCapabilities(dir string) {
	if cache, err := capabilitiesCache(); err == nil {
		_ = fsutil.CopyTree(filepath.Join(dir, capabilities), cache)
	}
}

func keepCapabilities(dir string) {
	if cache, err := capabilitiesCache(); err == nil {
		_ = fsutil.CopyTree(cache, filepath.Join(dir, capabilities))
	}
}

func capabilitiesCache() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(cache, "cri-logproxy", "libvirt-qemu"), nil
}
