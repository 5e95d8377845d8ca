package deploy

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

// run runs a command that must succeed, and returns what it says.
func run(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
	}
	return string(out)
}

// build builds the package, and returns where it is.
func build(t *testing.T, dir, version string) string {
	t.Helper()
	cmd := exec.Command("deb/build.sh", dir)
	cmd.Env = append(os.Environ(), "VERSION="+version, "SOURCE_DATE_EPOCH=1500000000")
	out := run(t, cmd)
	built, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil || len(built) != 1 {
		t.Fatalf("built %v, %v\n%s", built, err, out)
	}
	return built[0]
}

const firstVersion, nextVersion = "1.0.0", "1.1.0"

var buildOnce = sync.OnceValues(func() (string, error) { return os.MkdirTemp("", "deb") })

// first is the package that all tests share, next the same of a later version.
func first(t *testing.T) string { return shared(t, firstVersion) }
func next(t *testing.T) string  { return shared(t, nextVersion) }

func shared(t *testing.T, version string) string {
	t.Helper()
	if _, err := exec.LookPath("dpkg"); err != nil {
		t.Skip("there is no dpkg")
	}
	dir, err := buildOnce()
	if err != nil {
		t.Fatal(err)
	}
	dir = filepath.Join(dir, version)
	if built, _ := filepath.Glob(filepath.Join(dir, "*.deb")); len(built) == 1 {
		return built[0]
	}
	return build(t, dir, version)
}

func TestMain(m *testing.M) {
	code := m.Run()
	if dir, err := buildOnce(); err == nil {
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

// unpacked is the first package's files.
func unpacked(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	run(t, exec.Command("dpkg-deb", "-x", first(t), dir))
	return dir
}

func TestReproducible(t *testing.T) {
	var sums [2][]byte
	for i, file := range []string{first(t), build(t, t.TempDir(), firstVersion)} {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(data)
		sums[i] = sum[:]
	}
	if !bytes.Equal(sums[0], sums[1]) {
		t.Errorf("two builds differ: %x, %x", sums[0], sums[1])
	}
}

func TestPackage(t *testing.T) {
	for field, want := range map[string]string{"Package": "cri-logproxy", "Version": firstVersion, "Depends": "", "Suggests": "libvirt-clients"} {
		if got := strings.TrimSpace(run(t, exec.Command("dpkg-deb", "-f", first(t), field))); got != want {
			t.Errorf("%s is %q, want %q", field, got, want)
		}
	}
	files := make(map[string]string)
	for line := range strings.Lines(run(t, exec.Command("dpkg-deb", "-c", first(t)))) {
		f := strings.Fields(line)
		if f[1] != "root/root" || f[3] != "2017-07-14" && f[3] != "2017-07-13" {
			t.Errorf("not root's, or not of SOURCE_DATE_EPOCH: %s", line)
		}
		files[strings.TrimPrefix(f[5], ".")] = f[0]
	}
	for file, mode := range map[string]string{
		"/usr/sbin/cri-logproxy":                                          "-rwxr-xr-x",
		"/etc/default/cri-logproxy":                                       "-rw-r--r--",
		"/usr/lib/systemd/system/cri-logproxy.service":                    "-rw-r--r--",
		"/usr/lib/systemd/system/cri-logproxy.socket":                     "-rw-r--r--",
		"/usr/share/doc/cri-logproxy/copyright":                           "-rw-r--r--",
		"/usr/share/doc/cri-logproxy/README.md":                           "-rw-r--r--",
		"/usr/share/doc/cri-logproxy/deploy/README.md":                    "-rw-r--r--",
		"/usr/share/doc/cri-logproxy/deploy/kubelet/20-cri-logproxy.conf": "-rw-r--r--",
		"/usr/share/doc/cri-logproxy/deploy/virtlet/README.md":            "-rw-r--r--",
	} {
		if files[file] != mode {
			t.Errorf("%s has mode %q, want %s", file, files[file], mode)
		}
	}
	for file := range files {
		if strings.HasPrefix(file, "/etc/") && !strings.HasSuffix(file, "/") && file != "/etc/default/cri-logproxy" {
			t.Errorf("%s does not belong in /etc", file)
		}
	}
}

// TestVersion checks what git says as Debian writes it.
func TestVersion(t *testing.T) {
	dir := t.TempDir()
	script := filepath.Join(dir, "deploy", "deb", "build.sh")
	data, err := os.ReadFile("deb/build.sh")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(script), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(script, data, 0o755); err != nil {
		t.Fatal(err)
	}
	// In place of go: says the version instead of building.
	fakeGo := filepath.Join(dir, "deploy", "fake-go")
	if err := os.WriteFile(fakeGo, []byte("#!/bin/sh\n[ \"$1\" = tool ] && echo \"version $VERSION $SOURCE_DATE_EPOCH\"\nexit 0\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	env := append(os.Environ(), "GO="+fakeGo, "VERSION=", "SOURCE_DATE_EPOCH=", "GIT_CEILING_DIRECTORIES="+filepath.Dir(dir),
		"GIT_CONFIG_GLOBAL=/dev/null", "GIT_AUTHOR_DATE=@1500000000 +0200", "GIT_COMMITTER_DATE=@1500000000 +0200",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b")
	git := func(args ...string) {
		cmd := exec.Command("git", append([]string{"-C", dir}, args...)...)
		cmd.Env = env
		run(t, cmd)
	}
	want := func(pattern string) {
		t.Helper()
		cmd := exec.Command(script, filepath.Join(dir, "dist"))
		cmd.Env = env
		if got := strings.TrimSpace(run(t, cmd)); !regexp.MustCompile("^version " + pattern + "$").MatchString(got) {
			t.Errorf("%q, want %s", got, pattern)
		}
	}
	want(`0\.0\.0~git 0`)
	git("init", "-q")
	git("add", "deploy")
	git("commit", "-qm", "one")
	want(`0\.0\.0~git20170714024000\.[0-9a-f]+ 1500000000`)
	git("tag", "v1.2.3-rc1")
	want(`1\.2\.3~rc1 1500000000`)
	git("commit", "-qm", "two", "--allow-empty")
	want(`1\.2\.3~rc1\+1\.g[0-9a-f]+ 1500000000`)
	git("tag", "v1.2.3")
	want(`1\.2\.3 1500000000`)
	if err := os.WriteFile(fakeGo, append([]byte("#!/bin/sh\n"), "[ \"$1\" = tool ] && echo \"version $VERSION $SOURCE_DATE_EPOCH\" || true\n"...), 0o755); err != nil {
		t.Fatal(err)
	}
	want(`1\.2\.3\+dirty 1500000000`)
}

// root is an empty Debian system with a shell, in which dpkg installs.
type root struct {
	t   *testing.T
	dir string
}

func newRoot(t *testing.T) *root {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can chroot, as dpkg does for a package's scripts")
	}
	r := &root{t, t.TempDir()}
	for _, d := range []string{"var/lib/dpkg/updates", "var/lib/dpkg/info", "run/systemd/system", "usr/bin", "etc", "dev"} {
		if err := os.MkdirAll(r.path(d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{"var/lib/dpkg/status", "var/lib/dpkg/available", "dev/null"} {
		r.write(f, "", 0o644)
	}
	for _, name := range []string{"sh", "rm", "rmdir", "cat"} {
		program, err := exec.LookPath(name)
		if err != nil {
			t.Fatal(err)
		}
		r.copy(program, "/usr/bin/"+name)
		for _, lib := range regexp.MustCompile(`/\S+`).FindAllString(run(t, exec.Command("ldd", program)), -1) {
			r.copy(lib, lib)
		}
	}
	if err := os.Symlink("usr/bin", r.path("bin")); err != nil {
		t.Fatal(err)
	}
	// systemd is running, and writes down what it is asked for.
	r.write("usr/bin/systemctl", `#!/bin/sh
echo "$*" >> /systemctl.log
case " $* " in *" is-active "*) [ -e /active ] ;; esac
`, 0o755)
	return r
}

func (r *root) path(name string) string { return filepath.Join(r.dir, name) }

func (r *root) write(name, content string, mode os.FileMode) {
	r.t.Helper()
	if err := os.WriteFile(r.path(name), []byte(content), mode); err != nil {
		r.t.Fatal(err)
	}
}

func (r *root) copy(from, to string) {
	r.t.Helper()
	data, err := os.ReadFile(from)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(r.path(to)), 0o755)
	}
	if err == nil {
		err = os.WriteFile(r.path(to), data, 0o755)
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

// dpkg runs dpkg in the root. It returns what dpkg said, and what it, or a
// package's script, asked of systemd.
func (r *root) dpkg(args ...string) (said, asked string) {
	r.t.Helper()
	args = append([]string{
		"--root=" + r.dir, "--log=" + r.path("var/lib/dpkg/log"), "--force-not-root",
		"--path-include=/usr/share/doc/cri-logproxy/*", // containers leave documentation out
	}, args...)
	cmd := exec.Command("dpkg", args...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "PATH=/usr/sbin:/usr/bin:/sbin:/bin")
	said = run(r.t, cmd)
	log, _ := os.ReadFile(r.path("systemctl.log"))
	os.Remove(r.path("systemctl.log"))
	return said, string(log)
}

func (r *root) exists(name string) bool {
	_, err := os.Lstat(r.path(name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		r.t.Fatal(err)
	}
	return err == nil
}

// tree is all that is there, but for dpkg's own records.
func (r *root) tree() []string {
	r.t.Helper()
	var names []string
	err := filepath.WalkDir(r.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if path == r.path("var/lib/dpkg") {
			return fs.SkipDir
		}
		names = append(names, strings.TrimPrefix(path, r.dir))
		return nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return names
}

// TestInstall is the life of the package on a node.
func TestInstall(t *testing.T) {
	one, two := first(t), next(t)
	r := newRoot(t)
	before := r.tree()

	said, asked := r.dpkg("-i", one)
	if asked != "daemon-reload\n--quiet is-active cri-logproxy.service\n" {
		t.Errorf("installing asked systemd for:\n%s", asked)
	}
	if !strings.Contains(said, "neither enabled nor started") || !strings.Contains(said, "/usr/share/doc/cri-logproxy/deploy/README.md") {
		t.Errorf("installing said:\n%s", said)
	}
	for _, f := range []string{"usr/sbin/cri-logproxy", "usr/lib/systemd/system/cri-logproxy.service", "usr/share/doc/cri-logproxy/deploy/README.md"} {
		if !r.exists(f) {
			t.Errorf("%s is not there", f)
		}
	}
	if out := run(t, exec.Command(r.path("usr/sbin/cri-logproxy"), "version")); !strings.HasPrefix(out, "cri-logproxy ") {
		t.Errorf("version: %s", out)
	}

	// It is set up, and runs.
	const settings = "CRI_LOGPROXY_ARGS=\"-v=1\"\n"
	r.write("etc/default/cri-logproxy", settings, 0o644)
	r.write("active", "", 0o644)
	for _, d := range []string{"var/lib/cri-logproxy/containers", "run/cri-logproxy", "var/log/pods"} {
		if err := os.MkdirAll(r.path(d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	r.write("var/lib/cri-logproxy/containers/c.json", "{}", 0o600)
	kept := func(when string) {
		t.Helper()
		if data, err := os.ReadFile(r.path("etc/default/cri-logproxy")); err != nil || string(data) != settings {
			t.Errorf("settings after %s: %q, %v", when, data, err)
		}
		if !r.exists("var/lib/cri-logproxy/containers/c.json") {
			t.Errorf("%s has removed the records", when)
		}
	}

	said, asked = r.dpkg("-i", two)
	if asked != "daemon-reload\n--quiet is-active cri-logproxy.service\n" {
		t.Errorf("an upgrade asked systemd for:\n%s", asked)
	}
	if !strings.Contains(said, "systemctl restart cri-logproxy.service") || strings.Contains(said, "neither enabled") {
		t.Errorf("an upgrade said:\n%s", said)
	}
	kept("an upgrade")

	_, asked = r.dpkg("--remove", "cri-logproxy")
	if want := "--quiet is-active cri-logproxy.socket\nstop cri-logproxy.socket cri-logproxy.service\n--quiet disable cri-logproxy.socket cri-logproxy.service\ndaemon-reload\n"; asked != want {
		t.Errorf("a removal asked systemd for:\n%s", asked)
	}
	kept("a removal")
	if r.exists("usr/sbin/cri-logproxy") || r.exists("usr/lib/systemd") || r.exists("usr/share") {
		t.Errorf("left after a removal: %v", r.tree())
	}

	_, asked = r.dpkg("--purge", "cri-logproxy")
	if asked != "" {
		t.Errorf("a purge asked systemd for:\n%s", asked)
	}
	if !r.exists("var/log/pods") {
		t.Error("a purge has removed logs that are kubelet's")
	}
	os.Remove(r.path("active"))
	os.RemoveAll(r.path("var/log"))
	left := make(map[string]bool)
	for _, name := range r.tree() {
		left[name] = true
	}
	for _, name := range before {
		delete(left, name)
	}
	if len(left) > 0 {
		t.Errorf("left after a purge: %v", slices.Sorted(maps.Keys(left)))
	}
}

// TestInstallWithoutSystemd is a chroot, or a container.
func TestInstallWithoutSystemd(t *testing.T) {
	one := first(t)
	r := newRoot(t)
	for _, f := range []string{"run/systemd", "usr/bin/systemctl"} {
		if err := os.RemoveAll(r.path(f)); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{{"-i", one}, {"--purge", "cri-logproxy"}} {
		if said, asked := r.dpkg(args...); asked != "" || strings.Contains(said, "not found") {
			t.Errorf("%v said:\n%s\n%s", args, said, asked)
		}
	}
	if strings.Contains(fmt.Sprint(r.tree()), "cri-logproxy") {
		t.Errorf("left: %v", r.tree())
	}
}
