package converter

import (
	"slices"

	"golang.org/x/sys/unix"
)

// withoutEvents are file systems on which inotify does not tell what other
// hosts, or the layer below, write (inotify(7), Limitations; statfs(2)).
var withoutEvents = []int64{
	unix.NFS_SUPER_MAGIC, unix.V9FS_MAGIC, unix.FUSE_SUPER_MAGIC, unix.OVERLAYFS_SUPER_MAGIC,
	unix.SMB2_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC, unix.CEPH_SUPER_MAGIC,
}

// eventless says that the file system of path may keep changes to itself.
func eventless(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && slices.Contains(withoutEvents, int64(st.Type))
}
