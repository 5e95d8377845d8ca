// Package e2e tests cri-logproxy with real parts: VMs under libvirt and QEMU,
// and kubelet's own client and log reader. Its packages are the equipment.
package e2e
