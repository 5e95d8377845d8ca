package vmruntime

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"google.golang.org/grpc"
)

// Runtime is a CRI runtime. Make one with New.
type Runtime struct {
	o      Options
	era    behaviour
	store  *store
	libv   *hypervisor
	server *grpc.Server
	codec  *recordingCodec

	serving sync.WaitGroup
	failed  chan error // gets the error that ended serving, if any
	start   sync.Once
	close   sync.Once
	err     error // of Close
}

// New returns a runtime that knows the sandboxes and containers of the state
// directory. It serves after Start.
func New(o Options) (*Runtime, error) {
	r, err := newRuntime(o)
	if err != nil {
		return nil, fmt.Errorf("vmruntime: %w", err)
	}
	return r, nil
}

func newRuntime(o Options) (*Runtime, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := o.prepare(); err != nil {
		return nil, err
	}
	store, err := openStore(o.StateDir)
	if err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	r := &Runtime{
		o:      o,
		era:    behaviours[o.Era],
		store:  store,
		libv:   &hypervisor{socket: o.Libvirt},
		codec:  newRecordingCodec(),
		failed: make(chan error, 1),
	}
	r.server = newServer(o.APIs, r.codec, &runtimeService{Runtime: r}, &imageService{Runtime: r})
	return r, nil
}

// Start begins to serve and returns once the socket is there. A runtime can be
// started once.
func (r *Runtime) Start() error {
	err := errors.New("started before")
	r.start.Do(func() { err = r.serve() })
	if err != nil {
		return fmt.Errorf("vmruntime: %w", err)
	}
	return nil
}

func (r *Runtime) serve() error {
	if _, err := r.libv.client(); err != nil {
		return err
	}
	l, err := listen(r.o.Listen)
	if err != nil {
		return err
	}
	r.serving.Go(func() {
		if err := r.server.Serve(l); err != nil {
			r.failed <- err
		}
	})
	return nil
}

// Run serves until ctx ends or serving fails, then closes the runtime.
func (r *Runtime) Run(ctx context.Context) error {
	err := r.Start()
	if err == nil {
		select {
		case <-ctx.Done():
		case err = <-r.failed:
		}
	}
	return errors.Join(err, r.Close())
}

// Close ends serving and waits for the calls under way, which are cancelled.
// The virtual machines go on: a new Runtime with the same state directory takes
// them over. It may be called again.
func (r *Runtime) Close() error {
	r.close.Do(func() {
		r.server.Stop()
		r.serving.Wait()
		r.err = r.libv.close()
	})
	return r.err
}

// LastCreateRequest returns the bytes of the last CreateContainerRequest just
// as they came over the wire, nil before the first.
func (r *Runtime) LastCreateRequest() []byte { return r.codec.last() }

// listen makes the socket, in the place of one that a dead process has left.
func listen(path string) (net.Listener, error) {
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		c.Close()
		return nil, fmt.Errorf("listen on %s: somebody serves there already", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	return net.Listen("unix", path)
}
