#!/bin/bash
# PID 1 of an instance's namespaces. Arguments: the instance's directory and
# "remove" if that goes when the instance ends.
dir=$1 remove=$2

for tree in etc run var; do
	mount --bind "$dir/$tree" "/$tree" || exit
done

# Only the QEMU driver is in $dir/drv: the others want dnsmasq, udev and D-Bus.
export LIBVIRT_DRIVER_DIR=$dir/drv
/usr/sbin/virtlogd -p "$dir/virtlogd.pid" </dev/null &
/usr/sbin/libvirtd -p "$dir/libvirtd.pid" </dev/null &

finish() {
	kill -KILL -1
	[ "$remove" = remove ] && rm -rf "$dir"
	exit 0
}
trap finish TERM

# Stdin is a pipe whose other end the harness holds: when that process goes,
# even by SIGKILL, the read ends.
{
	cat <&3 >/dev/null
	kill -TERM 1
} 3<&0 </dev/null &

# QEMU daemonises. Nobody but PID 1 can reap it, and libvirt calls a domain
# whose process is still a zombie "busy".
while :; do
	wait
	sleep 0.2
done
