// Package vmruntime is a small CRI runtime that runs pods as virtual machines
// on a real libvirt and a real QEMU, under software emulation.
//
// It stands in for Virtlet in tests and demonstrations: it answers as Virtlet
// 0.8.2 and its successors do in all that matters to a proxy which owns the
// logs. Its own code, none of Virtlet's. [Options.Era] says which releases to
// imitate. What it has in common with all of them:
//
//   - A sandbox's ID is the pod's UID. A sandbox has at most one container,
//     whose ID follows from the sandbox's and is the libvirt domain's UUID.
//   - VIRTLET_VM_LOG_LOCATION decides what the serial port is: a file
//     <location>/<sandbox>/_<attempt>.log, made by libvirt when the domain
//     starts and truncated when it starts again, or a pty. The log path of the
//     request goes into the status at best.
//   - A second CreateContainer either replaces the domain (0.8.2) or changes
//     nothing at all (1.0.0 and later). StopContainer deletes the root disk.
//   - No time of ending, no reason, no exit code. Every error is a plain one:
//     code Unknown, never NotFound.
//   - Virtual machines outlive the runtime; RemovePodSandbox takes the raw logs
//     of mode file, and leaves those that somebody else has a pty logged to.
//   - A runtime of another era takes over what the one before has left.
//
// The virtual machine is that of package guest. A container's args are added
// to its kernel command line, so that a pod chooses what its VM prints.
package vmruntime
