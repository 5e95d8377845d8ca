package libvirtd

import (
	"errors"
	"path/filepath"

	"github.com/cri-logproxy/cri-logproxy/e2e/need"
)

const (
	libvirtdPath = "/usr/sbin/libvirtd"
	virtlogdPath = "/usr/sbin/virtlogd"
	qemuPath     = "/usr/bin/qemu-system-x86_64"
	driverGlob   = "/usr/lib/*/libvirt/connection-driver/libvirt_driver_qemu.so"
)

// Check says what is missing on this machine, if anything: a
// [need.MissingError] for each.
func Check() error {
	return errors.Join(
		need.Root(),
		need.File(libvirtdPath, "libvirt-daemon"),
		need.File(virtlogdPath, "libvirt-daemon"),
		need.File(qemuPath, "qemu-system-x86"),
		need.Command("virsh", "libvirt-clients"),
		need.Command("bash", "bash"),
		need.Command("unshare", "util-linux"),
		need.Command("nsenter", "util-linux"),
		need.Command("mount", "mount"),
	)
}

// qemuDriver returns the path of libvirtd's driver for QEMU.
func qemuDriver() (string, error) {
	found, err := filepath.Glob(driverGlob)
	if err != nil {
		return "", err
	}
	if len(found) == 0 {
		return "", need.File(driverGlob, "libvirt-daemon-driver-qemu")
	}
	return found[0], nil
}
