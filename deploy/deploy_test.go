package deploy

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// texts are the files that people read or copy.
func texts(t *testing.T) map[string]string {
	t.Helper()
	files := make(map[string]string)
	for _, dir := range []string{".", "systemd", "kubelet", "virtlet", "deb"} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			name := filepath.Join(dir, e.Name())
			if e.IsDir() || strings.HasPrefix(name, "go.") || strings.HasSuffix(name, ".go") {
				continue
			}
			data, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			files[name] = string(data)
		}
	}
	return files
}

// foreign are the flags of other programs.
var foreign = map[string][]string{
	"kubelet":   {"--container-runtime", "--container-runtime-endpoint", "--image-service-endpoint"},
	"kubectl":   {"--overwrite", "--patch-file", "--tail", "--field-selector"},
	"systemctl": {"--now", "--quiet"},
	"git":       {"--tags", "--match", "--dirty", "--date", "--format"},
	"nfpm":      {"--config", "--packager", "--target"},
	"dpkg":      {"--purge", "--remove", "--force-confold"},
}

// TestFlags checks that every flag which is named here is one of ours, as --help
// has it, or is known to be another's.
func TestFlags(t *testing.T) {
	binary := filepath.Join(unpacked(t), "usr/sbin/cri-logproxy")
	help := run(t, exec.Command(binary, "--help")) + run(t, exec.Command(binary, "console", "--help"))
	known := make(map[string]bool)
	for _, m := range regexp.MustCompile(`(?m)^  -([a-zA-Z][\w-]*)`).FindAllStringSubmatch(help, -1) {
		known["--"+m[1]] = true
	}
	if !known["--listen"] || !known["--force"] {
		t.Fatalf("cannot read --help:\n%s", help)
	}
	for _, flags := range foreign {
		for _, f := range flags {
			known[f] = true
		}
	}
	known["--help"] = true
	ours := 0
	for name, text := range texts(t) {
		for _, m := range regexp.MustCompile(`(?:^|[\s"'=\x60(])(--[a-z][\w-]*)`).FindAllStringSubmatch(text, -1) {
			if !known[m[1]] {
				t.Errorf("%s names the flag %s, which nobody has", name, m[1])
			}
			ours++
		}
	}
	if ours < 10 {
		t.Errorf("only %d flags found", ours)
	}
}

// TestYAML checks that YAML can be read, and that patches name what they patch.
func TestYAML(t *testing.T) {
	kinds := map[string]string{
		"kubelet/config.yaml":            "KubeletConfiguration",
		"virtlet/from-0.9.0-config.yaml": "ConfigMap",
		"virtlet/from-0.9.0-mounts.yaml": "DaemonSet",
		"virtlet/until-0.8.2-file.yaml":  "DaemonSet",
		"virtlet/until-0.8.2-pty.yaml":   "DaemonSet",
	}
	for name, text := range texts(t) {
		if filepath.Ext(name) != ".yaml" || name == "deb/nfpm.yaml" { // which nfpm has read
			continue
		}
		want, ok := kinds[name]
		if !ok {
			t.Errorf("%s: say here what it is", name)
		}
		delete(kinds, name)
		dec := yaml.NewDecoder(strings.NewReader(text))
		for n := 0; ; n++ {
			var doc struct {
				Kind     string
				Metadata struct{ Name, Namespace string }
				Spec     struct {
					Template struct {
						Spec struct {
							Containers []struct {
								Name         string
								VolumeMounts []struct {
									Name      string
									MountPath string `yaml:"mountPath"`
								} `yaml:"volumeMounts"`
							}
							Volumes []struct {
								Name     string
								HostPath struct{ Path string } `yaml:"hostPath"`
							}
						}
					}
				}
			}
			err := dec.Decode(&doc)
			if errors.Is(err, io.EOF) && n == 1 {
				break
			}
			if err != nil || doc.Kind != want {
				t.Errorf("%s: document %d is a %q: %v", name, n, doc.Kind, err)
				break
			}
			if want != "DaemonSet" {
				continue
			}
			if doc.Metadata.Name != "virtlet" || doc.Metadata.Namespace != "kube-system" {
				t.Errorf("%s patches %+v", name, doc.Metadata)
			}
			host := make(map[string]string)
			for _, v := range doc.Spec.Template.Spec.Volumes {
				host[v.Name] = v.HostPath.Path
			}
			for _, c := range doc.Spec.Template.Spec.Containers {
				for _, m := range c.VolumeMounts {
					// As cri-logproxy is told in its settings.
					want := map[string]string{"/var/log/vms": "/var/log/virtlet/vms", "/var/run/libvirt": "/var/run/libvirt", "/run": "/run"}[m.MountPath]
					if want == "" || host[m.Name] != want {
						t.Errorf("%s: container %s has %s mounted from the host's %q, want %q", name, c.Name, m.MountPath, host[m.Name], want)
					}
				}
			}
		}
	}
	for name := range kinds {
		t.Errorf("%s is not there", name)
	}
}

// TestUnits checks that units can be read, by systemd itself if it is here.
func TestUnits(t *testing.T) {
	line := regexp.MustCompile(`^([A-Z][A-Za-z]+=.*|\[[A-Z][a-z]+\]|#.*|)$`)
	for _, name := range []string{"systemd/cri-logproxy.service", "systemd/cri-logproxy.socket", "kubelet/20-cri-logproxy.conf"} {
		for l := range strings.Lines(texts(t)[name]) {
			if !line.MatchString(strings.TrimSuffix(l, "\n")) {
				t.Errorf("%s: %q", name, l)
			}
		}
	}
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("there is no systemd-analyze: units are not verified")
	}
	dir := unpacked(t)
	units := filepath.Join(dir, "usr/lib/systemd/system")
	for _, target := range []string{"sysinit", "basic", "shutdown"} {
		if err := os.WriteFile(filepath.Join(units, target+".target"), []byte("[Unit]\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// kubelet, with our drop-in.
	if err := os.WriteFile(filepath.Join(units, "kubelet.service"), []byte("[Service]\nExecStart=/usr/sbin/cri-logproxy\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(units, "kubelet.service.d"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(units, "kubelet.service.d/20-cri-logproxy.conf"), []byte(texts(t)["kubelet/20-cri-logproxy.conf"]), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(analyze, "verify", "--root="+dir, "cri-logproxy.service", "cri-logproxy.socket", "kubelet.service").CombinedOutput()
	if err != nil || len(bytes.TrimSpace(out)) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
	// 0 is locked in, 10 is wide open; 2.0 would be a setting or two less.
	out, err = exec.Command(analyze, "security", "--offline=yes", "--root="+dir, "--threshold=20", "--no-pager", "cri-logproxy.service").CombinedOutput()
	if err != nil {
		t.Errorf("systemd-analyze security: %v\n%s", err, out)
	}
}

// TestSettings checks that the service reads what the package installs, and
// that kubelet, units and binary mean the same socket.
func TestSettings(t *testing.T) {
	files := texts(t)
	socket := "/run/cri-logproxy/cri-logproxy.sock"
	for name, want := range map[string]string{
		"systemd/cri-logproxy.socket":  "ListenStream=" + socket,
		"systemd/cri-logproxy.service": "ExecStart=/usr/sbin/cri-logproxy $CRI_LOGPROXY_ARGS",
		"kubelet/config.yaml":          "containerRuntimeEndpoint: unix://" + socket,
	} {
		if !slices.Contains(strings.Split(files[name], "\n"), want) {
			t.Errorf("%s lacks %s", name, want)
		}
	}
	help := run(t, exec.Command(filepath.Join(unpacked(t), "usr/sbin/cri-logproxy"), "--help"))
	if !strings.Contains(help, `(default "unix://`+socket+`")`) {
		t.Errorf("--listen is another than %s", socket)
	}
	for l := range strings.Lines(files["systemd/cri-logproxy.default"]) {
		if !strings.HasPrefix(l, "#") && strings.TrimSpace(l) != "" {
			t.Errorf("the settings are not all comments: %s", l)
		}
	}
}

// TestLinks checks that files which are linked to are there.
func TestLinks(t *testing.T) {
	for name, text := range texts(t) {
		if filepath.Ext(name) != ".md" {
			continue
		}
		for _, m := range regexp.MustCompile(`\]\(([^)#:]+)\)`).FindAllStringSubmatch(text, -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(name), m[1])); errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s links to %s, which is not there", name, m[1])
			}
		}
	}
}
