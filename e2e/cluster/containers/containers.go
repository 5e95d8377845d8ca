// Package containers runs containerd in a box, and the registry that it pulls
// from.
package containers

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"text/template"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-logproxy/cri-logproxy/e2e/cluster/box"
	"github.com/cri-logproxy/cri-logproxy/e2e/internal/fsutil"
	"github.com/cri-logproxy/cri-logproxy/e2e/need"
)

const (
	metricsAddress = "127.0.0.1:1338"
	cniPlugins     = "/usr/lib/cni"
	cniConfig      = "/etc/cni/net.d"
)

// network gives each pod a pair of network interfaces, one of them the node's.
const network = `{"cniVersion": "0.4.0", "name": "pods", "plugins": [{"type": "ptp", "ipam": {
	"type": "host-local", "ranges": [[{"subnet": "10.124.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]
}}]}
`

// stopGrace is how long containerd may take to stop.
const stopGrace = 10 * time.Second

//go:embed containerd.toml
var configSource string

var configTemplate = template.Must(template.New("containerd.toml").Parse(configSource))

// Containerd is a running containerd. Its process may be killed, and started
// again by Restart: the containers go on.
type Containerd struct {
	*box.Process
	// Socket is where it serves CRI.
	Socket string

	box      *box.Box
	program  string
	config   string
	registry *registry
	conn     *grpc.ClientConn
}

// Check says what is missing on this machine, if anything.
func Check() error {
	return errors.Join(
		need.Command("runc", "runc"),
		need.File(filepath.Join(cniPlugins, "ptp"), "containernetworking-plugins"),
		need.File(busybox, "busybox-static"),
	)
}

// Start starts the containerd that is in the directory programs, Debian's with
// "", and waits until it can run pods. Debian's has its place in the box.
func Start(ctx context.Context, b *box.Box, programs string) (*Containerd, error) {
	dir := filepath.Join(b.Dir, "containerd")
	c := &Containerd{Socket: filepath.Join(dir, "containerd.sock"), box: b, config: filepath.Join(dir, "config.toml")}
	err := Check()
	if err == nil {
		err = c.start(ctx, dir, programs)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("containerd: %w", err), c.Stop())
	}
	return c, nil
}

func (c *Containerd) start(ctx context.Context, dir, programs string) (err error) {
	shim := ""
	if programs != "" {
		c.program, shim = filepath.Join(programs, "containerd"), filepath.Join(programs, "containerd-shim-runc-v2")
	} else if c.program, err = exec.LookPath("containerd"); err != nil {
		return need.Command("containerd", "containerd")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var config bytes.Buffer
	err = configTemplate.Execute(&config, map[string]string{
		"Dir": dir, "Socket": c.Socket, "Metrics": metricsAddress, "Pause": pauseImage, "Shim": shim,
		"CNIPlugins": cniPlugins, "CNIConfig": cniConfig,
	})
	if err != nil {
		return err
	}
	if err := fsutil.WriteFile(c.config, config.Bytes(), 0o644); err != nil {
		return err
	}
	if err := fsutil.WriteFile(filepath.Join(c.box.Path(cniConfig), "pods.conflist"), []byte(network), 0o644); err != nil {
		return err
	}
	if c.registry, err = serveImages(ctx, c.box); err != nil {
		return fmt.Errorf("registry: %w", err)
	}
	if c.conn, err = grpc.NewClient("unix://"+c.Socket, grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		return err
	}
	return c.Restart(ctx)
}

// Restart starts containerd again, which must have ended, and waits until it can
// run pods.
func (c *Containerd) Restart(ctx context.Context) (err error) {
	if c.Process, err = c.box.Run(c.program, "--config="+c.config); err != nil {
		return err
	}
	return c.Await(ctx, func() (bool, error) {
		r, err := cri.NewRuntimeServiceClient(c.conn).Status(ctx, &cri.StatusRequest{}, grpc.WaitForReady(true))
		if err != nil {
			return false, nil // not yet
		}
		for _, condition := range r.Status.Conditions {
			if !condition.Status && (condition.Type == cri.RuntimeReady || condition.Type == cri.NetworkReady) {
				return false, nil
			}
		}
		return true, nil
	})
}

// Metrics returns containerd's metrics, in the text format of Prometheus.
func (c *Containerd) Metrics(ctx context.Context) ([]byte, error) {
	client := &http.Client{Transport: &http.Transport{DialContext: c.box.Dial, DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+metricsAddress+"/v1/metrics", nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return io.ReadAll(resp.Body)
}

// StopDaemon ends containerd, and nothing else.
func (c *Containerd) StopDaemon() error { return c.Process.Stop(stopGrace) }

// Stop ends containerd and the registry. The containers end with the box.
func (c *Containerd) Stop() error {
	var err error
	if c.Process != nil {
		err = c.StopDaemon()
	}
	if c.conn != nil {
		err = errors.Join(err, c.conn.Close())
	}
	if c.registry != nil {
		err = errors.Join(err, c.registry.close())
	}
	return err
}
