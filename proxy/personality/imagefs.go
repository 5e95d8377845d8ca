package personality

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ImageFS is for every Virtlet: it answers only where the runtime does not.
var ImageFS = &Repair{
	Name:   "image-fs",
	Reason: "ImageFsInfo is not implemented (up to 1.1), without which kubelet does not start",
	needed: isVirtlet,
}

// VirtletDir is where Virtlet has its images, on the host as in its own
// container (deploy/virtlet-ds.yaml).
const VirtletDir = "/var/lib/virtlet"

// ImageFSInfo answers ImageFsInfo for images in dir, or where dir is not there,
// for the file system on which it would be made.
func ImageFSInfo(dir string) (*runtimeapi.ImageFsInfoResponse, error) {
	var st unix.Statfs_t
	for {
		err := unix.Statfs(dir, &st)
		if err == nil {
			break
		}
		if !errors.Is(err, fs.ErrNotExist) || dir == filepath.Dir(dir) {
			return nil, fmt.Errorf("look at the file system of %s: %w", dir, err)
		}
		dir = filepath.Dir(dir)
	}
	usage := &runtimeapi.FilesystemUsage{
		Timestamp:  time.Now().UnixNano(),
		FsId:       &runtimeapi.FilesystemIdentifier{Mountpoint: dir},
		UsedBytes:  &runtimeapi.UInt64Value{Value: (st.Blocks - st.Bfree) * uint64(st.Bsize)},
		InodesUsed: &runtimeapi.UInt64Value{Value: st.Files - st.Ffree},
	}
	return &runtimeapi.ImageFsInfoResponse{ImageFilesystems: []*runtimeapi.FilesystemUsage{usage}}, nil
}
