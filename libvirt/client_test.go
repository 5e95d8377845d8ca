package libvirt

import (
	"errors"
	"strings"
	"sync"
	"testing"
)

func TestSetConsole(t *testing.T) {
	f := startFake(t, ptyPort)
	c := newClient(t, f.socket, patience)
	s, err := c.SetConsole(t.Context(), containerID, Both, "/l")
	must(t, err)
	if want := (Serial{Domain: `virtlet-87a6f0c1-vm & "friends"`, Type: "pty", Log: "/l", Appends: true}); s != want {
		t.Errorf("got %+v, want %+v", s, want)
	}
	f.do(func() {
		if f.xml != withSerial(bothPort) {
			t.Errorf("defined: %s", f.xml)
		}
		const inactiveSecure = 1 | 2
		if f.flags[0] != inactiveSecure {
			t.Errorf("asked for XML with flags %d", f.flags[0])
		}
	})
	if again, err := c.SetConsole(t.Context(), containerID, Both, "/l"); err != nil || again != s {
		t.Errorf("again: %+v, %v", again, err)
	}
	if read, err := c.Serial(t.Context(), containerID); err != nil || read != s {
		t.Errorf("read: %+v, %v", read, err)
	}
	if n := f.definitions(); n != 1 {
		t.Errorf("defined %d times", n)
	}
	if now, ever := f.connections(); now != 1 || ever != 1 {
		t.Errorf("%d connections, %d ever", now, ever)
	}
}

func TestSetConsoleOfRunningVM(t *testing.T) {
	f := startFake(t, `<serial type='pty'><source path='/dev/pts/4'/><target port='0'/></serial>`)
	f.do(func() { f.active = true })
	c := newClient(t, f.socket, patience)
	s, err := c.SetConsole(t.Context(), containerID, Both, "/l")
	if err != nil || !s.Active || s.Path != "/dev/pts/4" || s.File() != "" {
		t.Errorf("%+v, %v", s, err)
	}
	f.do(func() {
		if f.defined != 0 || f.flags[0] != 0 {
			t.Errorf("defined %d times, flags %d", f.defined, f.flags)
		}
	})
}

func TestSetConsoleFails(t *testing.T) {
	f := startFake(t, ptyPort)
	c := newClient(t, f.socket, patience)
	fails := func(file, want string, definitions int) {
		t.Helper()
		_, err := c.SetConsole(t.Context(), containerID, Both, file)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "87a6f0c1-") {
			t.Errorf("got %v, want an error that says %q", err, want)
		}
		if n := f.definitions(); n != definitions {
			t.Errorf("%s: defined %d times, want %d", want, n, definitions)
		}
	}
	fails("l", "absolute", 0)
	f.do(func() { f.refuses = true })
	fails("/l", "unsupported configuration", 1)
	f.do(func() { f.refuses, f.ignores = false, true })
	fails("/l", "not taken", 2)
	f.do(func() { f.xml = "<domain/>" })
	fails("/l", "no serial port", 2)
}

// TestDomainGoes takes the domain away while it is edited. It is not made anew.
func TestDomainGoes(t *testing.T) {
	f := startFake(t, ptyPort)
	c := newClient(t, f.socket, patience)
	lookups := 0
	f.do(func() {
		f.on = func(proc uint32) answer {
			if proc == procLookup {
				lookups++
			}
			if lookups == 2 {
				f.xml = ""
			}
			return reply
		}
	})
	_, err := c.SetConsole(t.Context(), containerID, Both, "/l")
	if n := f.definitions(); !errors.Is(err, ErrNoDomain) || lookups != 2 || n != 0 {
		t.Errorf("%d lookups, %d definitions, %v", lookups, n, err)
	}
}

func TestNoDomain(t *testing.T) {
	f := startFake(t, ptyPort)
	c := newClient(t, f.socket, patience)
	for _, id := range []string{
		"", "__", "x", "virtlet.cloud__", "87a6f0c1-5b1c-5f0f-9d6e-6cbd0ac1a2b4",
		"87a6f0c15b1c5f0f9d6e6cbd0ac1a2b3", "87a6f0c1-5b1c-5f0f-9d6e-6cbd0ac1a2b3a",
		"87a6f0c1-5b1c-5f0f-9d6e6-cbd0ac1a2b3", "87a6f0c1-5b1c-5f0f-9d6e-6cbd0ac1a2bg",
	} {
		if _, err := c.Serial(t.Context(), id); !errors.Is(err, ErrNoDomain) || !strings.Contains(err.Error(), id) {
			t.Errorf("%q: %v", id, err)
		}
		if _, err := c.SetConsole(t.Context(), id, Both, "/l"); !errors.Is(err, ErrNoDomain) {
			t.Errorf("%q: %v", id, err)
		}
		if other := "87a6f0c1-5b1c-5f0f-9d6e-6cbd0ac1a2b4"; IsDomainID(id) != (id == other) {
			t.Errorf("%q: can be a domain's: %t", id, IsDomainID(id))
		}
	}
	for _, id := range []string{"87a6f0c1-5b1c-5f0f-9d6e-6cbd0ac1a2b3", "87A6F0C1-5B1C-5F0F-9D6E-6CBD0AC1A2B3", "a__b__87a6f0c1-5b1c-5f0f-9d6e-6cbd0ac1a2b3"} {
		if _, err := c.Serial(t.Context(), id); err != nil || !IsDomainID(id) {
			t.Errorf("%q: can be a domain's: %t, %v", id, IsDomainID(id), err)
		}
	}
}

// TestManyCalls uses one connection from many goroutines, and breaks it off in
// between.
func TestManyCalls(t *testing.T) {
	f := startFake(t, ptyPort)
	c := newClient(t, f.socket, patience)
	asked := 0
	f.do(func() {
		f.on = func(uint32) answer {
			if asked++; asked == 100 {
				return hangUp
			}
			return reply
		}
	})
	var calls sync.WaitGroup
	for range 8 {
		calls.Go(func() {
			for range 25 {
				if _, err := c.Serial(t.Context(), containerID); err != nil {
					t.Error(err)
				}
				if _, err := c.SetConsole(t.Context(), containerID, Both, "/l"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	calls.Wait()
	if _, ever := f.connections(); ever != 2 {
		t.Errorf("%d connections", ever)
	}
}
