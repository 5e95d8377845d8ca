// Package kubelet runs a kubelet in a box, standalone or with an apiserver, and
// asks it what `kubectl logs` has it asked.
package kubelet

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"text/template"
	"time"

	"github.com/cri-logproxy/cri-logproxy/e2e/cluster/box"
	"github.com/cri-logproxy/cri-logproxy/e2e/internal/fsutil"
)

// Where kubelet listens.
const (
	apiAddress     = box.NodeIP + ":10250"
	podsURL        = "https://" + apiAddress + "/pods"
	healthzAddress = "127.0.0.1:10248"
)

// stopGrace is how long kubelet may take to stop.
const stopGrace = 10 * time.Second

//go:embed kubelet.yaml
var configSource string

var configTemplate = template.Must(template.New("kubelet.yaml").Parse(configSource))

// Options of a Kubelet. Of the log's, the zero value is kubelet's own default.
type Options struct {
	Program    string // path of kubelet
	Endpoint   string // the CRI runtime's unix socket
	Kubeconfig string // of the apiserver; "" for a kubelet that stands alone and has static pods only

	LogMaxSize         string        // at which it rotates a container's log
	LogMaxFiles        int           // how many it keeps
	LogMonitorInterval time.Duration // how often it looks; 3 s at the least

	FeatureGates []string // to be on
}

// Kubelet is a running kubelet.
type Kubelet struct {
	*box.Process

	box    *box.Box
	o      Options
	dir    string
	client *http.Client
}

// Start starts kubelet and waits until it is healthy.
func Start(ctx context.Context, b *box.Box, o Options) (*Kubelet, error) {
	k := &Kubelet{box: b, o: o, dir: filepath.Join(b.Dir, "kubelet"), client: &http.Client{Transport: &http.Transport{
		DialContext: b.Dial,
		// Its certificate is its own.
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true},
		DisableKeepAlives: true, // the next call may meet the next kubelet
	}}}
	err := k.configure()
	if err == nil {
		err = k.Restart(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("kubelet: %w", err)
	}
	return k, nil
}

func (k *Kubelet) configure() error {
	if err := os.MkdirAll(k.manifests(), 0o755); err != nil {
		return err
	}
	values := map[string]any{
		"Endpoint": k.o.Endpoint, "PodLogs": box.PodLogs, "Cgroup": k.box.Cgroup, "Dir": k.dir,
		"LogMaxSize":         cmp.Or(k.o.LogMaxSize, "10Mi"),
		"LogMaxFiles":        cmp.Or(k.o.LogMaxFiles, 5),
		"LogMonitorInterval": cmp.Or(k.o.LogMonitorInterval, 10*time.Second),
		"FeatureGates":       k.o.FeatureGates,
		"StaticPods":         "",
	}
	if k.o.Kubeconfig == "" {
		values["StaticPods"] = k.manifests()
	}
	var config bytes.Buffer
	if err := configTemplate.Execute(&config, values); err != nil {
		return err
	}
	return fsutil.WriteFile(k.config(), config.Bytes(), 0o644)
}

func (k *Kubelet) config() string    { return filepath.Join(k.dir, "config.yaml") }
func (k *Kubelet) manifests() string { return filepath.Join(k.dir, "manifests") }

// Restart starts kubelet again, which must have ended, and waits until it is
// healthy.
func (k *Kubelet) Restart(ctx context.Context) (err error) {
	args := []string{
		"--config=" + k.config(), "--root-dir=" + filepath.Join(k.dir, "root"),
		"--cert-dir=" + filepath.Join(k.dir, "pki"), "--hostname-override=" + box.NodeName, "--node-ip=" + box.NodeIP,
	}
	if k.o.Kubeconfig != "" {
		args = append(args, "--kubeconfig="+k.o.Kubeconfig)
	}
	if k.Process, err = k.box.Run(k.o.Program, args...); err != nil {
		return err
	}
	return k.Await(ctx, func() (bool, error) {
		_, err := k.get(ctx, "http://"+healthzAddress+"/healthz")
		if err == nil {
			_, err = k.get(ctx, podsURL) // it is healthy before it listens
		}
		return err == nil, nil
	})
}

// Stop ends kubelet. The pods go on.
func (k *Kubelet) Stop() error { return k.Process.Stop(stopGrace) }

// AddStaticPod has kubelet run a pod.
func (k *Kubelet) AddStaticPod(name string, manifest []byte) error {
	return fsutil.WriteFile(k.manifest(name), manifest, 0o644)
}

// RemoveStaticPod has kubelet delete a pod.
func (k *Kubelet) RemoveStaticPod(name string) error { return os.Remove(k.manifest(name)) }

func (k *Kubelet) manifest(name string) string { return filepath.Join(k.manifests(), name+".json") }

// StaticName returns the name that kubelet gives to a static pod.
func StaticName(name string) string { return name + "-" + box.NodeName }

// Pod is what kubelet says of a pod.
type Pod struct {
	Metadata struct{ Name, Namespace, UID string }
	Status   struct {
		Phase             string
		ContainerStatuses []ContainerStatus
	}
}

// ContainerStatus is what kubelet says of a container.
type ContainerStatus struct {
	ContainerID      string // with the runtime's name before it
	RestartCount     int
	State, LastState ContainerState
}

// ContainerState has one of its fields set, or none.
type ContainerState struct {
	Waiting *struct{ Reason string }
	Running *struct {
		StartedAt time.Time
	}
	Terminated *Terminated
}

// Terminated is how a container has ended.
type Terminated struct {
	ExitCode              int
	Reason, ContainerID   string
	StartedAt, FinishedAt time.Time
}

// Container returns the status of the pod's only container, zero before it has
// one.
func (p Pod) Container() ContainerStatus {
	if len(p.Status.ContainerStatuses) == 0 {
		return ContainerStatus{}
	}
	return p.Status.ContainerStatuses[0]
}

// ContainerID returns the ID of the pod's only container, "" before it has one.
func (p Pod) ContainerID() string {
	_, id, _ := strings.Cut(p.Container().ContainerID, "://")
	return id
}

// Pod returns what kubelet says of one of its pods; false if it has none of that
// name.
func (k *Kubelet) Pod(ctx context.Context, name string) (Pod, bool, error) {
	body, err := k.get(ctx, podsURL)
	if err != nil {
		return Pod{}, false, err
	}
	var list struct{ Items []Pod }
	if err := json.Unmarshal(body, &list); err != nil {
		return Pod{}, false, err
	}
	for _, p := range list.Items {
		if p.Metadata.Name == name {
			return p, true, nil
		}
	}
	return Pod{}, false, nil
}

// Logs returns a container's log, as the apiserver gets it for `kubectl logs`.
// The query is that of the API: follow, tailLines, sinceSeconds, timestamps ….
func (k *Kubelet) Logs(ctx context.Context, namespace, pod, container string, query url.Values) (io.ReadCloser, error) {
	u := url.URL{
		Scheme: "https", Host: apiAddress, RawQuery: query.Encode(),
		Path: "/containerLogs/" + namespace + "/" + pod + "/" + container,
	}
	return k.open(ctx, u.String())
}

// Summary returns kubelet's /stats/summary.
func (k *Kubelet) Summary(ctx context.Context) ([]byte, error) {
	return k.get(ctx, "https://"+apiAddress+"/stats/summary")
}

// Metrics returns kubelet's metrics, in the text format of Prometheus.
func (k *Kubelet) Metrics(ctx context.Context) ([]byte, error) {
	return k.get(ctx, "https://"+apiAddress+"/metrics")
}

// get is the answer to a GET. kubelet, when it has just started, may reset a
// connection: that is tried again.
func (k *Kubelet) get(ctx context.Context, u string) (answer []byte, err error) {
	for range 3 {
		if answer, err = k.getOnce(ctx, u); !errors.Is(err, syscall.ECONNRESET) {
			break
		}
	}
	return answer, err
}

func (k *Kubelet) getOnce(ctx context.Context, u string) ([]byte, error) {
	body, err := k.open(ctx, u)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	return io.ReadAll(body)
}

func (k *Kubelet) open(ctx context.Context, u string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return nil, err
	}
	resp, err := k.client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		return nil, fmt.Errorf("GET %s: %s: %s", u, resp.Status, bytes.TrimSpace(text))
	}
	return resp.Body, nil
}
