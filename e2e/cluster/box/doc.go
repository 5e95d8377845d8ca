// Package box makes a machine of its own for one node of a cluster: mount, PID,
// network, UTS and IPC namespaces, and a parent for its cgroups.
//
// The box has its own /var/log/pods, /var/log/containers and all the other paths
// that kubelet and the runtimes have compiled in, its own loopback and one
// network interface, and sysctls that are already as kubelet wants them. /tmp is
// shared: unix sockets there have the same names inside and outside, and what
// the box sees at a path of its own lies at [Box.Path] for everybody else.
//
// Any number of boxes stand side by side. A box ends with the process that
// started it, however that ends, and takes its processes, cgroups and directory
// along. It needs root, and neither systemd nor KVM.
package box
