// Package control runs a control plane in a box, etcd and kube-apiserver, and
// kubectl against it. There is no scheduler and no controller: pods name their
// node.
package control

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/cri-logproxy/cri-logproxy/e2e/cluster/box"
	"github.com/cri-logproxy/cri-logproxy/e2e/internal/fsutil"
	"github.com/cri-logproxy/cri-logproxy/e2e/need"
	"github.com/cri-logproxy/cri-logproxy/e2e/terminal"
)

const (
	etcdClient = "http://127.0.0.1:2379"
	etcdPeer   = "http://127.0.0.1:2380"
	token      = "admin-of-the-box"
)

// offPlugins are the admission plugins that want a controller or objects that
// nobody makes here.
const offPlugins = "ServiceAccount,DefaultStorageClass,StorageObjectInUseProtection,RuntimeClass," +
	"ResourceQuota,LimitRanger,TaintNodesByCondition,Priority"

// kubeconfigFormat takes the path of the apiserver's certificate, which it has
// signed itself for the name kubernetes, and the token.
const kubeconfigFormat = `apiVersion: v1
kind: Config
current-context: box
clusters: [{name: box, cluster: {server: "https://127.0.0.1:6443", certificate-authority: %q, tls-server-name: kubernetes}}]
users: [{name: admin, user: {token: %q}}]
contexts: [{name: box, context: {cluster: box, user: admin}}]
`

// Plane is a running control plane.
type Plane struct {
	// Kubeconfig is the path of a kubeconfig for everybody in the box.
	Kubeconfig string

	box       *box.Box
	kubectl   string
	dir       string
	etcd      *box.Process
	apiserver *box.Process
}

// Check says what is missing on this machine, if anything.
func Check() error { return need.Command("etcd", "etcd-server") }

// Start starts a control plane with the programs in a directory, and waits until
// it is ready.
func Start(ctx context.Context, b *box.Box, programs string) (*Plane, error) {
	p := &Plane{box: b, kubectl: filepath.Join(programs, "kubectl"), dir: filepath.Join(b.Dir, "control")}
	p.Kubeconfig = filepath.Join(p.dir, "kubeconfig")
	err := Check()
	if err == nil {
		err = p.start(ctx, filepath.Join(programs, "kube-apiserver"))
	}
	if err != nil {
		return nil, fmt.Errorf("control plane: %w", err)
	}
	return p, nil
}

func (p *Plane) start(ctx context.Context, apiserver string) error {
	pki := filepath.Join(p.dir, "pki")
	if err := os.MkdirAll(pki, 0o700); err != nil {
		return err
	}
	key, err := serviceAccountKey()
	if err != nil {
		return err
	}
	for name, content := range map[string]string{
		"sa.key":     key,
		"tokens.csv": token + `,admin,admin,"system:masters"` + "\n",
		"kubeconfig": fmt.Sprintf(kubeconfigFormat, filepath.Join(pki, "apiserver.crt"), token),
	} {
		if err := fsutil.WriteFile(filepath.Join(p.dir, name), []byte(content), 0o600); err != nil {
			return err
		}
	}
	etcd, err := exec.LookPath("etcd")
	if err != nil {
		return err
	}
	p.etcd, err = p.box.Run(etcd, "--data-dir="+filepath.Join(p.dir, "etcd"), "--unsafe-no-fsync",
		"--listen-client-urls="+etcdClient, "--advertise-client-urls="+etcdClient,
		"--listen-peer-urls="+etcdPeer, "--initial-advertise-peer-urls="+etcdPeer, "--initial-cluster=default="+etcdPeer)
	if err != nil {
		return err
	}
	p.apiserver, err = p.box.Run(apiserver,
		"--etcd-servers="+etcdClient, "--bind-address=127.0.0.1", "--advertise-address="+box.NodeIP, "--cert-dir="+pki,
		"--service-account-issuer=https://box", "--service-cluster-ip-range=10.96.0.0/24", "--endpoint-reconciler-type=none",
		"--service-account-key-file="+filepath.Join(p.dir, "sa.key"),
		"--service-account-signing-key-file="+filepath.Join(p.dir, "sa.key"),
		"--token-auth-file="+filepath.Join(p.dir, "tokens.csv"), "--authorization-mode=AlwaysAllow",
		"--disable-admission-plugins="+offPlugins, "--kubelet-preferred-address-types=InternalIP",
		"--profiling=false")
	if err != nil {
		return err
	}
	return p.apiserver.Await(ctx, func() (bool, error) {
		out, err := p.Kubectl(ctx, "get", "--raw=/readyz")
		return err == nil && out == "ok", nil
	})
}

// serviceAccountKey returns what the apiserver signs tokens with, of which
// nobody here takes any.
func serviceAccountKey() (string, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return "", err
	}
	block := &pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}
	return string(pem.EncodeToMemory(block)), nil
}

// Kubectl runs kubectl and returns what it printed on stdout.
func (p *Plane) Kubectl(ctx context.Context, args ...string) (string, error) {
	return p.KubectlInput(ctx, nil, args...)
}

// KubectlInput is Kubectl with something on stdin.
func (p *Plane) KubectlInput(ctx context.Context, stdin []byte, args ...string) (string, error) {
	var out, errOut bytes.Buffer
	wait, err := p.StartKubectl(ctx, stdin, &out, &errOut, args...)
	if err == nil {
		err = wait()
	}
	if err != nil {
		return out.String(), fmt.Errorf("kubectl %q: %w: %s", args, err, bytes.TrimSpace(errOut.Bytes()))
	}
	return out.String(), nil
}

// StartKubectl starts kubectl; wait returns when it has ended. It is killed when
// ctx ends.
func (p *Plane) StartKubectl(ctx context.Context, stdin []byte, out, errOut io.Writer, args ...string) (wait func() error, err error) {
	cmd := p.command(ctx, args)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), out, errOut
	if err := p.box.Start(cmd); err != nil {
		return nil, err
	}
	return cmd.Wait, nil
}

// KubectlTerminal starts kubectl on a terminal. It is killed when ctx ends.
func (p *Plane) KubectlTerminal(ctx context.Context, args ...string) (*terminal.Terminal, error) {
	return terminal.StartBy(p.box.Start, p.command(ctx, args))
}

func (p *Plane) command(ctx context.Context, args []string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, p.kubectl, append([]string{"--kubeconfig=" + p.Kubeconfig}, args...)...)
	cmd.Env = append(os.Environ(), "HOME="+p.dir) // for its cache
	return cmd
}

// Stop ends the control plane. What it would do to end in order is for the next,
// and there is none.
func (p *Plane) Stop() {
	p.apiserver.Kill()
	p.etcd.Kill()
}
