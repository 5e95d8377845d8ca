package containers

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	registryserver "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/cri-logproxy/cri-logproxy/e2e/cluster/box"
)

// Images that the registry has. Both are busybox; what the second does is wait.
const (
	Image      = registryAddress + "/busybox:1"
	pauseImage = registryAddress + "/pause:1"
)

// MissingImage is one that the registry does not have.
const MissingImage = registryAddress + "/missing:1"

const (
	registryAddress = "127.0.0.1:5000" // containerd takes plain HTTP from loopback
	busybox         = "/bin/busybox"
)

// registry serves images to a box. It is part of this process.
type registry struct {
	server *http.Server
	served chan error
}

// serveImages starts the registry of a box and pushes the images to it.
func serveImages(ctx context.Context, b *box.Box) (*registry, error) {
	l, err := b.Listen("tcp", registryAddress)
	if err != nil {
		return nil, err
	}
	silent := log.New(io.Discard, "", 0)
	r := &registry{server: &http.Server{Handler: registryserver.New(registryserver.Logger(silent))}, served: make(chan error, 1)}
	go func() { r.served <- r.server.Serve(l) }()
	if err := push(ctx, b); err != nil {
		return nil, errors.Join(err, r.close())
	}
	return r, nil
}

func (r *registry) close() error {
	err := r.server.Close()
	if served := <-r.served; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

func push(ctx context.Context, b *box.Box) error {
	layer, err := busyboxLayer()
	if err != nil {
		return err
	}
	transport := &http.Transport{DialContext: b.Dial}
	defer transport.CloseIdleConnections()
	for ref, command := range map[string][]string{Image: {"sh"}, pauseImage: {"sleep", "infinity"}} {
		image, err := mutate.AppendLayers(empty.Image, layer)
		if err != nil {
			return err
		}
		config, err := image.ConfigFile()
		if err != nil {
			return err
		}
		config = config.DeepCopy()
		config.OS, config.Architecture = runtime.GOOS, runtime.GOARCH
		config.Config = v1.Config{Env: []string{"PATH=/bin"}, Cmd: command}
		if image, err = mutate.ConfigFile(image, config); err != nil {
			return err
		}
		tag, err := name.NewTag(ref, name.Insecure)
		if err != nil {
			return err
		}
		if err := remote.Write(tag, image, remote.WithContext(ctx), remote.WithTransport(transport)); err != nil {
			return err
		}
	}
	return nil
}

// busyboxLayer is a file system of this machine's busybox, with all its names.
func busyboxLayer() (v1.Layer, error) {
	program, err := os.ReadFile(busybox)
	if err != nil {
		return nil, err
	}
	names, err := exec.Command(busybox, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("%s --list: %w", busybox, err)
	}
	headers := []tar.Header{
		{Typeflag: tar.TypeReg, Name: "bin/busybox", Mode: 0o755, Size: int64(len(program))},
		{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777},
	}
	for name := range strings.FieldsSeq(string(names)) {
		if name != "busybox" {
			headers = append(headers, tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + name, Linkname: "busybox"})
		}
	}
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	for _, h := range headers {
		h.ModTime = time.Unix(0, 0)
		if err := w.WriteHeader(&h); err != nil {
			return nil, err
		}
		if h.Size > 0 {
			if _, err := w.Write(program); err != nil {
				return nil, err
			}
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(layer.Bytes())), nil
	})
}
