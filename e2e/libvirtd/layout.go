package libvirtd

import (
	_ "embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cri-logproxy/cri-logproxy/e2e/internal/fsutil"
)

//go:embed init.sh
var initScript []byte

// users must hold libvirt-qemu: libvirtd looks up its compiled-in default user
// before it reads in qemu.conf that it shall use another.
const users = `root:x:0:0:root:/root:/bin/sh
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
libvirt-qemu:x:64055:64055::/var/lib/libvirt:/usr/sbin/nologin
`

const groups = `root:x:0:
tty:x:5:
kvm:x:104:
nogroup:x:65534:
libvirt-qemu:x:64055:
`

// qemuConf is for a host without cgroups, AppArmor and device ownership to
// manage. %q is the handler of serial ports' files.
const qemuConf = `user = "root"
group = "root"
dynamic_ownership = 0
security_driver = "none"
cgroup_controllers = [ ]
namespaces = [ ]
seccomp_sandbox = 0
stdio_handler = %q
`

// layOut makes the instance's directories and files.
//
// /etc is a whole directory of its own, because a bind mount over the single
// file /etc/passwd goes as soon as somebody on the host replaces that file.
// /var is, because libvirt keeps its consoles' locks in /var/lock.
func layOut(dir string, o Options) error {
	driver, err := qemuDriver()
	if err != nil {
		return err
	}
	for _, d := range []string{
		"drv", "etc/libvirt", "run/libvirt", "var/cache/libvirt",
		"var/lib/libvirt", "var/lock", "var/log/libvirt", "var/tmp",
	} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	link := filepath.Join(dir, "drv", filepath.Base(driver))
	if err := os.Symlink(driver, link); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	for name, content := range map[string]string{
		"init.sh":           string(initScript),
		"etc/passwd":        users,
		"etc/group":         groups,
		"etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
		"etc/machine-id":    "0123456789abcdef0123456789abcdef\n",
		"etc/libvirt/libvirtd.conf": "auth_unix_ro = \"none\"\nauth_unix_rw = \"none\"\n" +
			logTo(dir, "libvirtd.log"),
		"etc/libvirt/virtlogd.conf": logTo(dir, "virtlogd.log") + o.VirtlogdConf + "\n",
		"etc/libvirt/qemu.conf":     fmt.Sprintf(qemuConf, o.StdioHandler),
	} {
		if err := fsutil.WriteFile(filepath.Join(dir, name), []byte(content), 0o755); err != nil {
			return err
		}
	}
	err = fsutil.CopyFile(filepath.Join(dir, "etc/ld.so.cache"), "/etc/ld.so.cache", 0o644)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// logTo is the part of a daemon's configuration that sends its warnings and
// errors to a file.
func logTo(dir, name string) string {
	return fmt.Sprintf("log_level = 3\nlog_outputs = \"3:file:%s\"\n", filepath.Join(dir, name))
}
