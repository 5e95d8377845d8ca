#!/bin/bash
# PID 1 of a box. Arguments: the box's directory, its cgroup, the node's name and
# IP address, then the directories that are the box's own. Says "ready" on stdout.
dir=$1 cgroup=$2 name=$3 ip=$4
shift 4

setup() {
	set -e
	mount --make-rprivate /
	mount -t proc proc /proc
	for own; do
		mkdir -p "$own"
		mount --bind "$dir/fs$own" "$own"
	done
	# kubelet sets these for the whole machine. Here it finds them set, in files
	# of the box.
	while read -r sysctl value; do
		file=$dir/sysctl-${sysctl//\//-}
		echo "$value" >"$file"
		mount --bind "$file" "/proc/sys/$sysctl"
	done <<-END
		vm/overcommit_memory 1
		vm/panic_on_oom 0
		kernel/panic 10
		kernel/panic_on_oops 1
		kernel/keys/root_maxkeys 1000000
		kernel/keys/root_maxbytes 25000000
	END
	hostname "$name"
	# kubelet wants an address that is not the loopback's, and a default route.
	ip link set lo up
	ip link add node0 type veth peer name peer0
	ip address add "$ip/24" dev node0
	ip link set node0 up
	ip link set peer0 up
	ip route add default dev node0
	# Whoever looks up a name shall hear at once that there is nobody to ask.
	echo "nameserver 127.0.0.1" >"$dir/resolv.conf"
	mount --bind "$dir/resolv.conf" /etc/resolv.conf
}

# A function whose caller looks at the result ignores "set -e": hence a shell.
(setup "$@") </dev/null || exit
echo ready

finish() {
	kill -KILL -1
	for _ in {1..50}; do
		# Their cgroups are busy until the last process is reaped.
		find /sys/fs/cgroup/"$cgroup" /sys/fs/cgroup/*/"$cgroup" -depth -type d -exec rmdir {} + 2>/dev/null
		compgen -G "/sys/fs/cgroup/$cgroup" >/dev/null || compgen -G "/sys/fs/cgroup/*/$cgroup" >/dev/null || break
		sleep 0.1
	done
	while read -r _ _ _ _ target _; do # kubelet mounts its own directory
		[[ $target == "$dir"/* ]] && umount --lazy "$target"
	done </proc/self/mountinfo
	rm -rf --one-file-system "$dir"
	exit 0
}
trap finish TERM

# Stdin is a pipe whose other end the harness holds: when that process goes,
# even by SIGKILL, the read ends.
{
	cat <&3 >/dev/null
	kill -TERM 1
} 3<&0 </dev/null &

# Reap whoever has lost its parent.
while :; do
	wait
	sleep 0.2
done
