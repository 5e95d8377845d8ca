package personality

import (
	"strings"

	"google.golang.org/grpc/status"
)

// StoppedDisk is for Virtlet 1.1 and later.
var StoppedDisk = &Repair{
	Name: "stopped-disk",
	Reason: "StopContainer deletes the root disk, and the next StartContainer fails for ever, unless the container is " +
		"removed in between",
	needed: isNewVirtlet,
}

// IsDiskGone says that StartContainer failed because of that: libvirt's words.
func IsDiskGone(err error) bool {
	return strings.Contains(status.Convert(err).Message(), "Cannot access storage file")
}
