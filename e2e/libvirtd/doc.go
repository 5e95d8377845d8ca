// Package libvirtd runs a private libvirt: libvirtd, virtlogd and any number
// of QEMUs in mount and PID namespaces of their own.
//
// [Start] bind-mounts three directories of the instance over /etc, /run and
// /var, so that the daemons see a machine of their own: a plain
// qemu:///system, with nothing of the host's changed and any number of
// instances side by side, even with the same domain names. /tmp and /dev/pts
// stay shared: log files below /tmp and pseudo-terminals have the same names
// inside and outside.
//
// An instance ends with the process that started it, however that ends, and
// takes its virtual machines and its directory along. It needs root, but
// neither systemd nor KVM.
//
// [OpenConsole] drives "virsh console" as a person at a terminal would.
package libvirtd
