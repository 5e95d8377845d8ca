package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	golibvirt "github.com/digitalocean/go-libvirt"

	"github.com/cri-logproxy/cri-logproxy/e2e/internal/printed"
	"github.com/cri-logproxy/cri-logproxy/e2e/libvirtd"
	"github.com/cri-logproxy/cri-logproxy/libvirt"
)

// consoleUUID is the domain that the tests of package libvirt edit.
const consoleUUID = "87a6f0c1-5b1c-5f0f-9d6e-6cbd0ac1a2b3"

// consoleDomain is a domain with much in it that nobody may lose. %s is its
// first serial port, which is its console.
const consoleDomain = `<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>console</name>
  <uuid>` + consoleUUID + `</uuid>
  <title>a &lt;serial&gt; &amp; more</title>
  <metadata>
    <x:pod xmlns:x="http://example.org/pod?a=1&amp;b=2">
      <!-- <serial type='pty'/> -->
      <x:serial type='file'><x:target port='0'/></x:serial>
    </x:pod>
  </metadata>
  <memory unit='MiB'>96</memory>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
    %s
    <serial type='null'><target port='1'/></serial>
    <console type='pty'><target type='serial' port='0'/></console>
    <graphics type='vnc' port='-1' autoport='yes' passwd="s3'cret&lt;"/>
    <video><model type='none'/></video>
  </devices>
  <qemu:commandline>
    <qemu:arg value='-name'/><qemu:arg value='a b &quot;c&quot;'/>
  </qemu:commandline>
</domain>`

// consoleRig is a real libvirt with the domain, and a client of it.
type consoleRig struct {
	*libvirtd.Instance
	t      *testing.T
	ctx    context.Context
	client *libvirt.Client
	dir    string // of the raw logs
	log    string
}

func newConsoleRig(t *testing.T) *consoleRig {
	t.Helper()
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	r := &consoleRig{t: t, ctx: ctx, dir: t.TempDir()}
	r.log = filepath.Join(r.dir, `a & b's`, "0.log")
	r.must(os.Mkdir(filepath.Dir(r.log), 0o755))
	var err error
	r.Instance, err = libvirtd.Start(ctx, libvirtd.Options{})
	r.must(err)
	t.Cleanup(func() {
		if err := r.Stop(); err != nil {
			t.Error(err)
		}
	})
	r.client = r.newClient()
	return r
}

func (r *consoleRig) newClient() *libvirt.Client {
	client := libvirt.New(r.Socket)
	r.t.Cleanup(func() { client.Close() })
	return client
}

func (r *consoleRig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *consoleRig) virsh(args ...string) string {
	r.t.Helper()
	out, err := r.Virsh(r.ctx, args...)
	r.must(err)
	return out
}

// define defines the domain with that serial port.
func (r *consoleRig) define(serial string) {
	r.t.Helper()
	file := filepath.Join(r.t.TempDir(), "domain.xml")
	r.must(os.WriteFile(file, fmt.Appendf(nil, consoleDomain, serial), 0o600))
	r.virsh("define", file)
}

// xml is the domain as it would be defined again.
func (r *consoleRig) xml() string {
	r.t.Helper()
	return r.virsh("dumpxml", "--inactive", "--security-info", consoleUUID)
}

var (
	serialElement  = regexp.MustCompile(`(?s)<serial .*?</serial>`)
	consoleElement = regexp.MustCompile(`(?s)<console .*?</console>`)
)

// withoutConsole is a domain's XML without its first serial port and the
// console that is the same.
func withoutConsole(xml string) string {
	for _, element := range []*regexp.Regexp{serialElement, consoleElement} {
		at := element.FindStringIndex(xml)
		xml = xml[:at[0]] + xml[at[1]:]
	}
	return xml
}

// TestLibvirtEdits takes a domain of a real libvirt through all changes of its
// console.
func TestLibvirtEdits(t *testing.T) {
	r := newConsoleRig(t)
	const (
		pty  = `<serial type='pty'><target port='0'/></serial>`
		unix = `<serial type='unix'><source mode='bind' path='/tmp/u'/><target port='0'/></serial>`
		tcp  = `<serial type='tcp'><source mode='bind' host='127.0.0.1' service='4555'/><protocol type='telnet'/><log file='/tmp/l'/><target port='0'/></serial>`
		null = `<serial type='null'><target port='0'/></serial>`
	)
	r.define(pty)
	r.virsh("autostart", consoleUUID)
	before := r.xml()
	if !strings.Contains(before, `passwd='s3&apos;cret&lt;'`) {
		t.Errorf("no password to lose in %s", before)
	}
	definitions := r.countDefinitions()
	wantDefinitions := 0

	took := map[bool][]time.Duration{} // by: nothing to change
	id := "virtlet.cloud__" + consoleUUID
	inFile := libvirt.Serial{Domain: "console", Type: "file", Path: r.log, Appends: true}
	inBoth := libvirt.Serial{Domain: "console", Type: "pty", Log: r.log, Appends: true}
	onPTY := libvirt.Serial{Domain: "console", Type: "pty"}
	for i, step := range []struct {
		define  string // a serial port to begin with
		console libvirt.Console
		file    string
		want    libvirt.Serial
	}{
		{"", libvirt.Both, r.log, inBoth},
		{"", libvirt.File, r.log, inFile},
		{"", libvirt.Both, r.log, inBoth},
		{"", libvirt.PTY, r.dir, onPTY},
		{"", libvirt.File, r.log, inFile},
		{"", libvirt.PTY, r.dir, onPTY},
		{unix, libvirt.Both, r.log, inBoth},
		{unix, libvirt.File, r.log, inFile},
		{tcp, libvirt.File, r.log, inFile},
		{null, libvirt.File, r.log, inFile},
		{unix, libvirt.PTY, "", onPTY},
	} {
		if step.define != "" {
			r.define(step.define)
			wantDefinitions++
		}
		wantDefinitions++
		for _, again := range []bool{false, true} {
			asked := time.Now()
			s, err := r.client.SetConsole(r.ctx, id, step.console, step.file)
			took[again] = append(took[again], time.Since(asked))
			r.must(err)
			if s != step.want {
				t.Fatalf("step %d, again %t: got %+v, want %+v", i, again, s, step.want)
			}
		}
		edited := r.xml()
		if d := printed.Diff(withoutConsole(edited), withoutConsole(before)); d != "" {
			t.Errorf("step %d: something else has changed: %s", i, d)
		}
		if mirror := consoleElement.FindString(edited); !strings.HasPrefix(mirror, "<console type='"+step.want.Type+"'>") ||
			strings.Contains(mirror, "<log ") != (step.want.Log != "") {
			t.Errorf("step %d: the console is another than the serial port: %s", i, mirror)
		}
		if s, err := r.client.Serial(r.ctx, id); err != nil || s != step.want {
			t.Errorf("step %d: read %+v, %v", i, s, err)
		}
	}
	for unchanged, took := range took {
		slices.Sort(took)
		t.Logf("SetConsole with nothing to change (%t) took %v to %v, %v in the middle", unchanged, took[0], took[len(took)-1], took[len(took)/2])
	}
	if n := definitions(); n != wantDefinitions {
		t.Errorf("the domain was defined %d times, want %d", n, wantDefinitions)
	}
	if info := r.virsh("dominfo", consoleUUID); !strings.Contains(info, "Persistent:     yes") || !strings.Contains(info, "Autostart:      enable") {
		t.Error(info)
	}
}

// countDefinitions counts how often domains are defined, until the function
// that it returns is called, which defines one more.
func (r *consoleRig) countDefinitions() func() int {
	r.t.Helper()
	l, err := r.Dial()
	r.must(err)
	ctx, cancel := context.WithCancel(r.ctx)
	events, err := l.LifecycleEvents(ctx)
	r.must(err)
	counted := make(chan int)
	go func() {
		n := 0
		for e := range events {
			if e.Event != int32(golibvirt.DomainEventDefined) {
				continue
			}
			if e.Dom.Name == "last" {
				cancel() // and go on until the channel is closed
				counted <- n
			}
			n++
		}
	}()
	return func() int {
		_, err := l.DomainDefineXML("<domain type='qemu'><name>last</name><memory>1024</memory><os><type>hvm</type></os></domain>")
		r.must(err)
		defer l.Disconnect()
		select {
		case n := <-counted:
			return n
		case <-r.ctx.Done():
			r.t.Fatal("not told of the last definition")
			return 0
		}
	}
}

// TestLibvirtRunning leaves a VM alone that runs, if only just: its processor
// has not begun.
func TestLibvirtRunning(t *testing.T) {
	r := newConsoleRig(t)
	r.define(`<serial type='pty'><target port='0'/></serial>`)
	_, err := r.client.SetConsole(r.ctx, consoleUUID, libvirt.Both, r.log)
	r.must(err)
	r.virsh("start", "--paused", consoleUUID)
	before := r.xml()
	for _, console := range []libvirt.Console{libvirt.File, libvirt.PTY, libvirt.Both} {
		s, err := r.client.SetConsole(r.ctx, consoleUUID, console, r.log+".other")
		if err != nil || !s.Active || !strings.HasPrefix(s.Path, "/dev/pts/") || s.File() != r.log || !s.Appends {
			t.Errorf("%s: %+v, %v", console, s, err)
		}
	}
	if d := printed.Diff(r.xml(), before); d != "" {
		t.Error(d)
	}
	if _, err := os.Stat(r.log); err != nil {
		t.Error("the log is not where it should be:", err)
	}
	r.virsh("destroy", consoleUUID)
	if s, err := r.client.Serial(r.ctx, consoleUUID); err != nil || s.Active || s.Path != "" {
		t.Errorf("%+v, %v", s, err)
	}
}

// TestLibvirtFaults restarts and stops libvirtd between calls.
func TestLibvirtFaults(t *testing.T) {
	r := newConsoleRig(t)
	_, err := r.client.Serial(r.ctx, consoleUUID)
	if !errors.Is(err, libvirt.ErrNoDomain) {
		t.Errorf("no domain: %v", err)
	}
	r.define(`<serial type='pty'><target port='0'/></serial>`)
	_, err = r.client.SetConsole(r.ctx, consoleUUID, libvirt.File, r.log)
	r.must(err)

	r.must(r.RestartLibvirtd(r.ctx))
	s, err := r.client.SetConsole(r.ctx, consoleUUID, libvirt.Both, r.log)
	if err != nil || s.Log != r.log {
		t.Errorf("after a restart: %+v, %v", s, err)
	}

	r.must(r.signal("STOP"))
	t.Cleanup(func() { r.signal("CONT") })
	var calls sync.WaitGroup
	clients := []*libvirt.Client{r.client, r.newClient()} // one of them is connected
	for i, client := range clients {
		calls.Go(func() {
			asked := time.Now()
			_, err := client.Serial(r.ctx, consoleUUID)
			after := time.Since(asked)
			t.Logf("client %d, after %v: %v", i, after, err)
			if _, ok := errors.AsType[*libvirt.UnavailableError](err); !ok || after > 3*time.Second {
				t.Errorf("client %d, after %v: %v", i, after, err)
			}
		})
	}
	calls.Wait()
	r.must(r.signal("CONT"))
	for i, client := range clients {
		if now, err := client.Serial(r.ctx, consoleUUID); err != nil || now != s {
			t.Errorf("client %d, well again: %+v, %v", i, now, err)
		}
	}
	r.virsh("undefine", consoleUUID)
	if _, err := r.client.SetConsole(r.ctx, consoleUUID, libvirt.PTY, r.dir); !errors.Is(err, libvirt.ErrNoDomain) {
		t.Errorf("the domain is gone: %v", err)
	}
	if out := r.virsh("list", "--all", "--name"); strings.TrimSpace(out) != "" {
		t.Errorf("domains: %s", out)
	}
}

// signal sends libvirtd a signal.
func (r *consoleRig) signal(name string) error {
	_, err := r.InNamespace(r.ctx, "sh", "-c", `kill -"$0" $(cat "$1")`, name, filepath.Join(r.Dir, "libvirtd.pid"))
	return err
}
