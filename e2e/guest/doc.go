// Package guest makes a small Linux virtual machine whose serial console is
// known to the byte.
//
// [Files] gives a kernel (Debian's cloud kernel, not installed, only unpacked)
// and an initramfs (busybox and one script). What the guest prints is chosen
// on the kernel command line by a [Boot], and [Boot.Console] says exactly which
// bytes come out of the serial port. A test compares these with what the
// product made of them.
//
// What the guest writes and what leaves the port are not the same: the guest's
// terminal has ONLCR set, so that every "\n" leaves as "\r\n", and an explicit
// "\r\n" as "\r\r\n". All other bytes pass as they are.
package guest
