package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-logproxy/cri-logproxy/proxy/proxytest"
)

// node is a client, this process, with a runtime and a proxy in processes of
// their own.
type node struct {
	runtime, proxy  *process
	direct, through runtimeapi.RuntimeServiceClient
}

// forward measures calls through the proxy beside calls without it.
func forward(ctx context.Context, b *bench) (err error) {
	var n node
	if n.runtime, err = startProcess(b, "cri-runtime"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.runtime.stop()) }()
	dir := filepath.Join(b.dir, "node")
	if n.proxy, err = startProcess(b, "cri-proxy", n.runtime.socket, dir); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.proxy.stop()) }()
	for to, socket := range map[*runtimeapi.RuntimeServiceClient]string{&n.direct: n.runtime.socket, &n.through: n.proxy.socket} {
		conn, err := proxytest.Dial(socket)
		if err != nil {
			return err
		}
		defer conn.Close()
		*to = runtimeapi.NewRuntimeServiceClient(conn)
	}
	if err := n.makeContainer(ctx, filepath.Join(dir, "pods")); err != nil {
		return err
	}
	for _, measure := range []func(context.Context, *bench) error{n.latencies, n.listAllocs, n.throughput, n.cpu} {
		if err := measure(ctx, b); err != nil {
			return err
		}
	}
	return nil
}

// makeContainer puts a container on the proxy's record.
func (n *node) makeContainer(ctx context.Context, pods string) error {
	_, err := n.through.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{
		PodSandboxId:  criContainer(0).PodSandboxId,
		Config:        &runtimeapi.ContainerConfig{Metadata: &runtimeapi.ContainerMetadata{Name: "vm"}, LogPath: "vm/0.log"},
		SandboxConfig: &runtimeapi.PodSandboxConfig{LogDirectory: filepath.Join(pods, "default_vm-0_uid")},
	})
	return err
}

// criCall is a call of some kind to one of the two.
type criCall func(context.Context, runtimeapi.RuntimeServiceClient) error

func version(ctx context.Context, c runtimeapi.RuntimeServiceClient) error {
	_, err := c.Version(ctx, &runtimeapi.VersionRequest{Version: "0.1.0"})
	return err
}

func list500(ctx context.Context, c runtimeapi.RuntimeServiceClient) error {
	resp, err := c.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{}})
	if err == nil && len(resp.Containers) != listed {
		err = fmt.Errorf("%d containers are listed, want %d", len(resp.Containers), listed)
	}
	return err
}

func containerStatus(ctx context.Context, c runtimeapi.RuntimeServiceClient) error {
	_, err := c.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: statusID})
	return err
}

// streamContainers takes a long stream to its end.
func streamContainers(ctx context.Context, c runtimeapi.RuntimeServiceClient) error {
	stream, err := c.StreamContainers(ctx, &runtimeapi.StreamContainersRequest{})
	for err == nil {
		_, err = stream.Recv()
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// apart is between two calls. kubelet's are never back to back. If they were,
// of two processes none would ever fall asleep, while three share two CPUs.
const apart = time.Millisecond

// turns makes a call directly and through the proxy, some at a time, and returns
// what each took, in seconds. The first turns do not count.
func (n *node) turns(ctx context.Context, turns, calls int, call criCall) (direct, through []float64, err error) {
	for turn := range turns + turns/10 + 1 {
		for _, to := range []struct {
			client runtimeapi.RuntimeServiceClient
			took   *[]float64
		}{{n.direct, &direct}, {n.through, &through}} {
			for range calls {
				time.Sleep(apart)
				start := time.Now()
				if err := call(ctx, to.client); err != nil {
					return nil, nil, err
				}
				if turn > turns/10 {
					*to.took = append(*to.took, time.Since(start).Seconds())
				}
			}
		}
	}
	return direct, through, nil
}

func (n *node) latencies(ctx context.Context, b *bench) error {
	for _, f := range []struct {
		name         string
		turns, calls int
		call         criCall
	}{
		{"version", 60, 50, version},
		{"list-500", 50, 10, list500},
		{"container-status", 60, 50, containerStatus},
	} {
		direct, through, err := n.turns(ctx, f.turns, f.calls, f.call)
		if err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
		fmt.Fprintf(os.Stderr, "proxy/%s: %.0f us direct, %.0f us through the proxy\n", f.name, 1e6*median(direct), 1e6*median(through))
		b.report("proxy/"+f.name+"/p50", median(through)/median(direct), "x")
	}
	return nil
}

// allocs is what all processes have allocated that a call passes.
func (n *node) allocs() (uint64, error) {
	own, err := ownUsage()
	runtime, runtimeErr := n.runtime.used()
	proxy, proxyErr := n.proxy.used()
	return own.allocs + runtime.allocs + proxy.allocs, errors.Join(err, runtimeErr, proxyErr)
}

// listAllocs compares the allocations of client, proxy and runtime with those of
// client and runtime alone.
func (n *node) listAllocs(ctx context.Context, b *bench) error {
	const turns, calls = 10, 20
	var allocs [2]float64
	for range turns {
		for i, client := range []runtimeapi.RuntimeServiceClient{n.direct, n.through} {
			before, err := n.allocs()
			if err != nil {
				return err
			}
			for range calls {
				if err := list500(ctx, client); err != nil {
					return err
				}
			}
			after, err := n.allocs()
			if err != nil {
				return err
			}
			allocs[i] += float64(after - before)
		}
	}
	b.report("proxy/list-500/allocs", allocs[1]/allocs[0], "x")
	return nil
}

// throughput compares the time that a stream takes from its start to its end.
func (n *node) throughput(ctx context.Context, b *bench) error {
	direct, through, err := n.turns(ctx, 30, 1, streamContainers)
	if err != nil {
		return err
	}
	b.report("proxy/stream/throughput", median(direct)/median(through), "x")
	return nil
}

// cpu measures the proxy at 1,000 calls a second: ten clients make one each 10 ms,
// every other one a call that is decoded and rewritten.
func (n *node) cpu(ctx context.Context, b *bench) error {
	const clients, period, seconds = 10, 10 * time.Millisecond, 5
	before, err := n.proxy.used()
	if err != nil {
		return err
	}
	start := time.Now()
	var wg sync.WaitGroup
	errs := make([]error, clients)
	for i := range clients {
		wg.Go(func() {
			for j := range int(seconds * time.Second / period) {
				time.Sleep(time.Until(start.Add(time.Duration(j)*period + time.Duration(i)*period/clients)))
				call := []criCall{version, containerStatus}[j%2]
				if errs[i] = call(ctx, n.through); errs[i] != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	took := time.Since(start)
	after, err := n.proxy.used()
	if err := errors.Join(append(errs, err)...); err != nil {
		return err
	}
	b.report("proxy/1000-rps/cpu", float64((after.cpu-before.cpu).Microseconds())/1e3/took.Seconds(), "ms/s")
	return nil
}
