package libvirt

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"net/url"
	"slices"
	"strings"
)

// usualPlaces are where libvirt listens: libvirtd, and the daemon that new
// distributions have instead of it. In a container /var/run need not be /run.
var usualPlaces = []string{
	"/run/libvirt/libvirt-sock",
	"/run/libvirt/virtqemud-sock",
	"/var/run/libvirt/libvirt-sock",
	"/var/run/libvirt/virtqemud-sock",
}

// dial connects to the first place where somebody listens. at is that place, or
// the one that err is about, or all if there is a socket in none.
func dial(ctx context.Context, places []string) (nc net.Conn, at string, err error) {
	at, err = anyOf(places), fs.ErrNotExist
	var dialer net.Dialer
	for _, place := range places {
		nc, failed := dialer.DialContext(ctx, "unix", place)
		if failed == nil {
			return nc, place, nil
		}
		if err == fs.ErrNotExist && !errors.Is(failed, fs.ErrNotExist) {
			at, err = place, failed
		}
	}
	return nil, at, err
}

// anyOf names places.
func anyOf(places []string) string { return strings.Join(places, " or ") }

// URI returns what virsh calls the libvirt behind a socket; "" is for the usual
// places, as in [New].
func URI(socket string) string {
	const system = "qemu:///system"
	if socket == "" || slices.Contains(usualPlaces, socket) {
		return system
	}
	// virsh does not take "+" for a space.
	return "qemu+unix:///system?socket=" + strings.NewReplacer("+", "%20", "%2F", "/").Replace(url.QueryEscape(socket))
}
