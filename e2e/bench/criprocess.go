package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-logproxy/cri-logproxy/converter"
	"github.com/cri-logproxy/cri-logproxy/proxy"
	"github.com/cri-logproxy/cri-logproxy/proxy/logmap"
)

// process is a child that serves CRI at a socket and says what it has used.
type process struct {
	socket string
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout *bufio.Reader
}

// startProcess starts a child and waits until it serves. args follow its socket.
func startProcess(b *bench, name string, args ...string) (*process, error) {
	p := &process{socket: filepath.Join(b.dir, name+".sock")}
	cmd, err := child(name, append([]string{p.socket}, args...)...)
	if err != nil {
		return nil, err
	}
	if p.stdin, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.cmd, p.stdout = cmd, bufio.NewReader(stdout)
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	if _, err := p.used(); err != nil {
		return nil, errors.Join(err, p.stop())
	}
	return p, nil
}

// stop has the child end and waits for it.
func (p *process) stop() error { return errors.Join(p.stdin.Close(), p.cmd.Wait()) }

// usage is what a process has used so far.
type usage struct {
	allocs uint64
	cpu    time.Duration
}

// used asks the child what it has used.
func (p *process) used() (u usage, err error) {
	if _, err := fmt.Fprintln(p.stdin); err != nil {
		return u, err
	}
	_, err = fmt.Fscanln(p.stdout, &u.allocs, &u.cpu)
	return u, err
}

// ownUsage is what this process has used.
func ownUsage() (u usage, err error) {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	u.allocs = m.Mallocs
	u.cpu, err = cpuTime()
	return u, err
}

// answerUsage answers used, until the parent closes the child's input.
func answerUsage() error {
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		u, err := ownUsage()
		if err != nil {
			return err
		}
		fmt.Println(u.allocs, int64(u.cpu))
	}
	return nil
}

// criProxy is the child that is the proxy, as cri-logproxy runs it, between
// SOCKET and the runtime at another.
func criProxy(args []string) error {
	if len(args) != 3 {
		return fmt.Errorf("want SOCKET RUNTIME DIR, have %q", args)
	}
	socket, dir := args[0], args[2]
	for _, d := range []string{"raw", "pods"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	logs, _, err := logmap.Open(filepath.Join(dir, "state"))
	if err != nil {
		return err
	}
	defer logs.Close()
	converters, err := converter.NewManager(converter.Config{
		RawRoot: filepath.Join(dir, "raw"), LogRoot: filepath.Join(dir, "pods"), StateDir: filepath.Join(dir, "state"),
	})
	if err != nil {
		return err
	}
	defer converters.Close(context.Background())
	server, err := proxy.New(proxy.Config{
		RuntimeSocket: args[1], VMLogLocation: rawLogs, VMLogDir: filepath.Join(dir, "raw"),
		PodLogsDir: filepath.Join(dir, "pods"), LogMode: logmap.ModeFile,
	}, logs, converters, nil)
	if err != nil {
		return err
	}
	l, err := proxy.Listen(socket)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- server.Run(ctx, l) }()
	err = answerUsage()
	cancel()
	return errors.Join(err, <-served)
}

// criRuntime is the child that is the runtime: it has its answers ready, but
// decodes and encodes as runtimes do.
func criRuntime(args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("want SOCKET, have %q", args)
	}
	l, err := net.Listen("unix", args[0])
	if err != nil {
		return err
	}
	server := grpc.NewServer(grpc.MaxRecvMsgSize(proxy.MaxMessageSize))
	runtimeapi.RegisterRuntimeServiceServer(server, &criAnswers{
		list: &runtimeapi.ListContainersResponse{Containers: criContainers(listed)},
		part: &runtimeapi.StreamContainersResponse{Containers: criContainers(streamedAtOnce)},
	})
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	err = answerUsage()
	server.Stop()
	return errors.Join(err, <-served)
}
