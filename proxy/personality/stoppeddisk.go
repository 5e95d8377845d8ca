package personality

import (
	"strings"

	"google.golang.org/grpc/status"
)

// StoppedDisk is for every Virtlet: needed from 1.0 on, which speaks v1alpha1 like
// those before. Up to 0.9 CreateContainer itself removes the container first.
var StoppedDisk = &Repair{
	Name: "stopped-disk",
	Reason: "StopContainer deletes the root disk, and the next StartContainer fails for ever, unless the container is " +
		"removed in between",
	needed: isVirtlet,
}

// IsDiskGone says that StartContainer failed because of that: libvirt's words, and
// Virtlet's name of a root disk. Any other disk that is missing is none of ours.
func IsDiskGone(err error) bool {
	text := status.Convert(err).Message()
	return strings.Contains(text, "Cannot access storage file") && strings.Contains(text, "/virtlet_root_")
}
