package libvirt

import (
	"net"
	"path/filepath"
	"slices"
	"testing"
)

func TestURI(t *testing.T) {
	for socket, want := range map[string]string{
		"":                                "qemu:///system",
		"/run/libvirt/libvirt-sock":       "qemu:///system",
		"/var/run/libvirt/virtqemud-sock": "qemu:///system",
		"/tmp/lv1/libvirt-sock":           "qemu+unix:///system?socket=/tmp/lv1/libvirt-sock",
		"/a b/x+y&z=?#;é":                 "qemu+unix:///system?socket=/a%20b/x%2By%26z%3D%3F%23%3B%C3%A9",
	} {
		if got := URI(socket); got != want {
			t.Errorf("%s: %s", socket, got)
		}
	}
}

// TestUsualPlaces has libvirt come up in one place after the other.
func TestUsualPlaces(t *testing.T) {
	f := startFake(t, ptyPort)
	f.stop()
	c := newClient(t, "", patience)
	if places := c.connector.places; !slices.Equal(places, usualPlaces) {
		t.Errorf("it would look in %q", places)
	}
	dir := t.TempDir()
	first, second := filepath.Join(dir, "first"), filepath.Join(dir, "second")
	c.connector.places = []string{first, second}
	asked := func() error {
		_, err := c.Serial(t.Context(), containerID)
		return err
	}
	wantUnavailable(t, asked(), "libvirt is not available: there is no socket at "+first+" or "+second+": start libvirtd")

	for _, place := range []string{second, first} {
		f.socket = place
		f.listen()
		must(t, asked())
		f.stop()
	}
	abandon(t, first)
	wantUnavailable(t, asked(), "libvirt at "+first+" is not available: nobody listens")
	f.socket = second
	f.listen()
	must(t, asked())

	// Who breaks it off is named, not who was asked before.
	f.do(func() { f.on = func(uint32) answer { return hangUp } })
	wantUnavailable(t, asked(), "libvirt at "+second+" is not available: it has broken the connection off")
}

// abandon leaves a socket behind that nobody listens at.
func abandon(t *testing.T, path string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	must(t, err)
	l.SetUnlinkOnClose(false)
	must(t, l.Close())
}
