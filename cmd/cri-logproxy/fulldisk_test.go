package main

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

// mounted has a command run where dir is a file system of its own, which nobody
// else sees, that a shell script has prepared.
func mounted(t *testing.T, cmd *exec.Cmd, dir, prepare string) *exec.Cmd {
	t.Helper()
	if out, err := exec.Command("unshare", "--map-root-user", "--mount", "true").CombinedOutput(); err != nil {
		t.Skipf("cannot mount here: %v: %s", err, out)
	}
	script := "set -e; mkdir -p " + dir + "; mount -t tmpfs none " + dir + "; cd " + dir + "; " + prepare + `; exec "$@"`
	args := []string{"unshare", "--map-root-user", "--mount", "sh", "-c", script, "sh"}
	wrapped := exec.CommandContext(t.Context(), args[0], slices.Concat(args[1:], cmd.Args)...)
	wrapped.Env = cmd.Env
	return wrapped
}

// await waits until a text has been written.
func (o *output) await(t *testing.T, text string) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for timeout := time.After(20 * time.Second); !strings.Contains(o.String(), text); {
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("waited in vain for %q in\n%s", text, o.String())
		}
	}
}

// TestStateDisk starts it on a state disk that cannot be written, as kubelet's
// node may have when it must evict: it serves.
func TestStateDisk(t *testing.T) {
	const dirs = "mkdir -p state/containers state/sandboxes state/attempts state/checkpoints; "
	const lock = "echo someone >state/lock; "
	for _, test := range []struct{ name, prepare, want string }{
		{"full", "mount -o remount,nr_inodes=1 .", "state: no space left on device: going on from memory; make room"},
		{"full, after an upgrade", "mkdir -p state/containers; " + lock + "mount -o remount,nr_inodes=4 .", "state/sandboxes: no space left on device"},
		{"full, no lock", dirs + "mount -o remount,nr_inodes=6 .", "lock: no space left on device"},
		{"full, a lock without a name", dirs + ">state/lock; mount -o remount,size=4k .; echo >fill", "lock: no space left on device"},
		{"read-only", "mount -o remount,ro .", "state: read-only file system: going on from memory"},
		{"read-only, no lock", dirs + "mount -o remount,ro .", "lock: read-only file system"},
		{"read-only, used before", dirs + lock + "mount -o remount,ro .", "lock: read-only file system"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dir := newDir(t)
			cmd := command(t, flags(dir, "--state-dir="+dir+"/disk/state")...)
			cmd = mounted(t, cmd, dir+"/disk", test.prepare)
			var log output
			cmd.Stderr = &log
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			log.await(t, "serving at "+dir+"/proxy.sock")
			if !strings.Contains(log.String(), test.want) {
				t.Errorf("no word of %q in\n%s", test.want, log.String())
			}
			if err := stopCommand(cmd); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestStateDiskRefused has what is no matter of the disk end it as ever: a live
// owner, a wrong path.
func TestStateDiskRefused(t *testing.T) {
	for prepare, want := range map[string]string{
		"mkdir state; echo someone >state/lock; mount -o remount,ro .; exec 9<state/lock; flock 9": "state is in use by someone",
		"mkdir state; >state/containers; mount -o remount,ro .":                                    "not a directory",
	} {
		dir := newDir(t)
		cmd := mounted(t, command(t, flags(dir, "--state-dir="+dir+"/disk/state")...), dir+"/disk", prepare)
		if code, _, stderr := result(t, cmd); code != 1 || !strings.Contains(stderr, want) {
			t.Errorf("%s: exit code %d, %s", prepare, code, stderr)
		}
	}
}
