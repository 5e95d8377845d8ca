package personality

import (
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// LostDomain is for every Virtlet.
var LostDomain = &Repair{
	Name: "lost-domain",
	Reason: "a container whose domain libvirt has lost (a Virtlet pod that was made anew) cannot be created again until it " +
		"is removed",
	needed: isVirtlet,
}

// IsLostDomain says that CreateContainer failed because of that.
func IsLostDomain(err error) bool {
	return status.Code(err) == codes.Unknown && strings.Contains(status.Convert(err).Message(), "domain not found")
}
