package libvirt

import (
	"encoding/hex"
	"fmt"
	"strings"

	golibvirt "github.com/digitalocean/go-libvirt"
)

// IsDomainID tells whether a container's ID can be that of a domain.
func IsDomainID(containerID string) bool {
	_, err := domainUUID(containerID)
	return err == nil
}

// domainUUID returns the UUID of a container's domain: it is the container ID.
// CRIProxy puts the runtime's name in front: "virtlet.cloud__<uuid>".
func domainUUID(containerID string) (golibvirt.UUID, error) {
	id := containerID
	if i := strings.LastIndex(id, "__"); i >= 0 {
		id = id[i+len("__"):]
	}
	var uuid golibvirt.UUID
	digits := strings.ReplaceAll(id, "-", "")
	if len(digits) == hex.EncodedLen(len(uuid)) {
		_, err := hex.Decode(uuid[:], []byte(digits))
		if err == nil && strings.EqualFold(id, formatUUID(uuid)) {
			return uuid, nil
		}
	}
	return uuid, fmt.Errorf("libvirt: container ID %q: want a domain's UUID: %w", containerID, ErrNoDomain)
}

func formatUUID(u golibvirt.UUID) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}
