package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-logproxy/cri-logproxy/e2e/await"
	"github.com/cri-logproxy/cri-logproxy/e2e/guest"
	"github.com/cri-logproxy/cri-logproxy/e2e/internal/printed"
	"github.com/cri-logproxy/cri-logproxy/e2e/libvirtd"
	"github.com/cri-logproxy/cri-logproxy/e2e/node"
	"github.com/cri-logproxy/cri-logproxy/e2e/pod"
	"github.com/cri-logproxy/cri-logproxy/e2e/vmruntime"
	"github.com/cri-logproxy/cri-logproxy/proxy"
	"github.com/cri-logproxy/cri-logproxy/proxy/logmap"
)

// TestBoth has two VMs with console and log at once, over restarts of all that
// can restart.
func TestBoth(t *testing.T) {
	for _, handler := range []string{libvirtd.StdioLogd, libvirtd.StdioFile} {
		t.Run(handler, func(t *testing.T) {
			r := newNode(t, node.Options{PTY: true, LogMode: logmap.ModeBoth, Libvirt: libvirtd.Options{StdioHandler: handler}})
			vms := []*rig{r.addPod("one"), r.addPod("two")}
			boots := []guest.Boot{{Marker: "one", Lines: 3}, {Marker: "two", Lines: 3}}
			for i, vm := range vms {
				vm.boot(0, boots[i])
			}
			for i, vm := range vms {
				// Nobody is attached while it boots.
				vm.waitLog(boots[i].ReadyLine())
				if text := vm.logs(); !strings.HasPrefix(text, strings.Join(boots[i].Text(), "\n")+"\n") {
					t.Errorf("the log begins with %q", text)
				}
			}
			consoles := []*libvirtd.Console{vms[0].openConsole(), vms[1].openConsole()}
			for i, vm := range vms {
				vm.talk(consoles[i], "at-once")
			}
			r.must(r.StopProxy())
			for _, c := range consoles {
				r.must(c.Send("echo away-$((6*7))\r"))
				r.must(c.Expect(r.ctx, "away-42"))
			}
			r.must(r.StartProxy(r.ctx))
			for i, vm := range vms {
				vm.connected()
				vm.waitLog("away-42\n")
				vm.talk(consoles[i], "after-the-proxy")
				r.must(consoles[i].Close())
			}
			r.must(r.Libvirt.RestartLibvirtd(r.ctx))
			for i, vm := range vms {
				consoles[i] = vm.openConsole()
				vm.talk(consoles[i], "after-libvirtd")
			}

			// One resets: the log goes on. The other is started again: a new log.
			_, err := r.Libvirt.Virsh(r.ctx, "reset", vms[0].domain())
			r.must(err)
			r.must(await.Condition(r.ctx, "the second boot in the log", func() (bool, error) {
				return strings.Count(vms[0].logs(), boots[0].ReadyLine()) == 2, nil
			}))
			vms[0].talk(consoles[0], "after-reset")
			vms[0].wantLogOf(vms[0].rawLog())

			first := vms[1].rawLog()
			r.must(vms[1].Pod.Stop(r.ctx, 0))
			vms[1].wantLogOf(first)
			_ = consoles[1].Close() // its VM is off
			vms[1].boot(1, boots[1])
			vms[1].waitLog(boots[1].ReadyLine())
			again := vms[1].openConsole()
			vms[1].talk(again, "after-restart")
			vms[1].wantLogOf(vms[1].rawLog())
			r.must(again.Close())
			r.must(consoles[0].Close())
			for _, vm := range vms {
				r.must(vm.Pod.Stop(r.ctx, 0))
				r.must(vm.Pod.Remove(r.ctx))
			}
			left, err := os.ReadDir(r.RawLogs)
			if err != nil || len(left) > 0 {
				t.Errorf("left in %s: %v, %v", r.RawLogs, left, err)
			}
		})
	}
}

// domain is the name of the VM in libvirt.
func (r *rig) domain() string { return vmruntime.DomainName(r.ID, pod.ContainerName) }

func (r *rig) openConsole(extra ...string) *libvirtd.Console {
	r.t.Helper()
	c, err := r.Libvirt.OpenConsole(r.ctx, r.domain(), extra...)
	r.must(err)
	r.t.Cleanup(func() { c.Close() })
	return c
}

// talk has the guest answer on the console, and finds the answer in the log.
func (r *rig) talk(c *libvirtd.Console, word string) {
	r.t.Helper()
	r.prompt(c.Terminal)
	r.must(c.Send("echo " + word + "-$((40+2))\r"))
	r.must(c.Expect(r.ctx, "echo "+word)) // the echo
	r.must(c.Expect(r.ctx, word+"-42"))   // the answer
	r.waitLog("\n" + word + "-42\n")
}

// waitLog waits for text in the log as `kubectl logs` shows it.
func (r *rig) waitLog(text string) {
	r.t.Helper()
	r.must(await.Condition(r.ctx, fmt.Sprintf("%q in the log", text), func() (bool, error) {
		return strings.Contains(r.logs(), text), nil
	}))
}

// connected waits until the CRI client has found the proxy again.
func (r *rig) connected() {
	r.t.Helper()
	r.must(await.Condition(r.ctx, "kubelet has connected again", func() (bool, error) {
		_, err := r.State(r.ctx)
		return err == nil, nil
	}))
}

// rawLog is the path of the raw log.
func (r *rig) rawLog() string {
	r.t.Helper()
	record, err := r.Mapping(r.ID)
	r.must(err)
	if len(record.RawLogs) != 1 {
		r.t.Fatalf("raw logs on record: %q", record.RawLogs)
	}
	return filepath.Join(r.RawLogs, record.RawLogs[0])
}

// wantLogOf compares the log with a raw log, to which the VM may still write a
// little.
func (r *rig) wantLogOf(raw string) {
	r.t.Helper()
	var got, want string
	err := await.Condition(r.ctx, "the log is complete", func() (bool, error) {
		got = r.logs()
		b, err := os.ReadFile(raw) // after the log, which so cannot have more
		want = strings.ReplaceAll(string(b), "\r\n", "\n")
		return len(got) == len(want) || !strings.HasPrefix(want, got), err
	})
	if d := printed.Diff(got, want); d != "" {
		r.t.Errorf("log of %s: %s (%v)", raw, d, err)
	}
}

// TestBothOverFile has a VM that the runtime writes to a file, and whose pod
// wants a console too.
func TestBothOverFile(t *testing.T) {
	r := newNode(t, node.Options{})
	vm := r.addPodWith("both", map[string]string{proxy.LogModeAnnotation: "both"})
	b := guest.Boot{Marker: "over", Lines: 2}
	vm.boot(0, b)
	vm.waitLog(b.ReadyLine())
	vm.talk(vm.openConsole(), "annotated")
	vm.wantLogOf(vm.rawLog())

	// Another one wants none of it.
	other := r.addPodWith("none", map[string]string{proxy.LogModeAnnotation: "pty"})
	other.boot(0, guest.Boot{Marker: "none"})
	c := other.openConsole()
	r.prompt(c.Terminal)
	if record, err := other.Mapping(other.ID); err != nil || record.Mode != logmap.ModePTY || len(record.RawLogs) > 0 {
		t.Errorf("on record: %+v, %v", record, err)
	}
}

// TestBothRotation has virtlogd rotate the raw log all the time, while the proxy
// runs, is down for some rotations, and is down for too many.
func TestBothRotation(t *testing.T) {
	const size, backups = 64 << 10, 4
	r := newNode(t, node.Options{PTY: true, LogMode: logmap.ModeBoth, Libvirt: libvirtd.Options{
		StdioHandler: libvirtd.StdioLogd,
		VirtlogdConf: fmt.Sprintf("max_size = %d\nmax_backups = %d\n", size, backups),
	}})
	vm := r.addPod("rotated")
	b := guest.Boot{Marker: "rotated", FloodMB: 2, PowerOff: true}
	vm.boot(0, b)
	raw := vm.rawLog()
	vm.rotations(raw, 3)
	r.KillProxy()
	vm.rotations(raw, 2)
	r.must(r.StartProxy(r.ctx))
	vm.connected()
	vm.rotations(raw, 2)
	whole := strings.Join(b.Text(), "\n") + "\n"
	if got := vm.logs(); !strings.HasPrefix(whole, got) || len(got) < 5*size {
		t.Errorf("%s", printed.Diff(got, whole))
	}
	before := len(vm.logs())
	r.KillProxy()
	vm.rotations(raw, backups+3)
	r.must(r.StartProxy(r.ctx))
	vm.connected()
	r.must(await.Condition(r.ctx, "the VM is off", func() (bool, error) {
		state, err := vm.State(r.ctx)
		return state == cri.ContainerState_CONTAINER_EXITED, err
	}))
	got, said := vm.allLogs()
	// What is there is whole but for one gap.
	gap := -1
	for i := before; i <= len(got); i++ {
		if strings.HasPrefix(whole, got[:i]) && strings.HasSuffix(whole, got[i:]) {
			gap = i
			break
		}
	}
	if gap < 0 || len(got) == len(whole) {
		t.Errorf("the log is not the console with one gap: %s", printed.Diff(got, whole))
	}
	if !strings.Contains(said, "bytes of console output or more are missing here: ") {
		t.Errorf("the log says %q", said)
	}
	t.Logf("of %d bytes %d are missing; the log says %q", len(whole), len(whole)-len(got), said)
}

// rotations waits until virtlogd has begun n new files.
func (r *rig) rotations(raw string, n int) {
	r.t.Helper()
	for range n {
		fi, err := os.Stat(raw)
		r.must(err)
		inode := fi.Sys().(*syscall.Stat_t).Ino
		r.must(await.Condition(r.ctx, "the raw log is rotated", func() (bool, error) {
			now, err := os.Stat(raw)
			return err == nil && now.Sys().(*syscall.Stat_t).Ino != inode, nil
		}))
	}
}

// TestStuckConsole stops a virsh that somebody has left: QEMU waits for its
// reader, and the log with it, until it goes on.
func TestStuckConsole(t *testing.T) {
	r := newNode(t, node.Options{PTY: true, LogMode: logmap.ModeBoth})
	vm := r.addPod("stuck")
	vm.boot(0, guest.Boot{Marker: "stuck"})
	c := vm.openConsole()
	vm.talk(c, "before")
	r.must(c.Send("i=0; while [ $i -lt 3000 ]; do i=$((i+1)); echo line-$i-of-a-flood-that-fills-a-pty; done; echo done-$((40+2))\r"))
	r.must(c.Expect(r.ctx, "line-9-"))
	r.must(c.Signal(syscall.SIGSTOP))
	raw := vm.rawLog()
	var size int64
	quiet := 0
	r.must(await.Condition(r.ctx, "the guest stalls", func() (bool, error) {
		if now := fileSize(raw); now != size {
			size, quiet = now, 0
		} else {
			quiet++
		}
		return quiet > 100, nil
	}))
	if b, err := os.ReadFile(raw); err != nil || strings.Contains(string(b), "done-42") {
		t.Fatalf("the guest did not stall: %v", err)
	}
	// What it has written so far is in the log.
	vm.wantLogOf(raw)
	r.must(c.Signal(syscall.SIGCONT))
	r.must(c.Expect(r.ctx, "done-42"))
	vm.waitLog("done-42\n")
	text := vm.logs()
	for i := 1; i <= 3000; i++ {
		if !strings.Contains(text, fmt.Sprintf("line-%d-of", i)) {
			t.Logf("line %d is not whole: QEMU doubles a byte where it stalls", i)
		}
	}
	vm.wantLogOf(raw)
}

// TestWithoutLibvirt is a node whose libvirt the proxy cannot reach: its VMs
// start all the same, and their logs say what is missing.
func TestWithoutLibvirt(t *testing.T) {
	r := newNode(t, node.Options{PTY: true, LogMode: logmap.ModeBoth, ProxyArgs: []string{"--libvirt-socket=/nowhere/libvirt-sock"}})
	vm := r.addPod("alone")
	vm.boot(0, guest.Boot{Marker: "alone"})
	_, said := vm.allLogs()
	for _, want := range []string{"[cri-logproxy] mode both could not be set up: ", "/nowhere/libvirt-sock", "--libvirt-socket"} {
		if !strings.Contains(said, want) {
			t.Errorf("the log says %q, want %q", said, want)
		}
	}
	c := vm.openConsole()
	r.prompt(c.Terminal)
}

// TestWrongDirectory is a proxy that was told the wrong directory for raw logs:
// a VM that libvirt cannot log there runs without.
func TestWrongDirectory(t *testing.T) {
	r := newNode(t, node.Options{PTY: true, LogMode: logmap.ModeBoth, ProxyArgs: []string{"--vm-log-dir=" + t.TempDir()}})
	vm := r.addPod("wrong")
	vm.boot(0, guest.Boot{Marker: "wrong"})
	_, said := vm.allLogs()
	r.wantText("the log", said, "[cri-logproxy] this VM did not start with a log of its console, and runs without: ", "No such file or directory", "--vm-log-dir")
	r.prompt(vm.openConsole().Terminal)
}
