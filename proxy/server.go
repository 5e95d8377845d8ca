package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/golang/glog"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-logproxy/cri-logproxy/converter"
	"github.com/cri-logproxy/cri-logproxy/proxy/api"
	"github.com/cri-logproxy/cri-logproxy/proxy/logmap"
	"github.com/cri-logproxy/cri-logproxy/proxy/personality"
)

const (
	// drainTimeout bounds how long a call waits for the console output that is
	// still on its way.
	drainTimeout = 5 * time.Second
	// stopTimeout bounds how long Run lets calls finish.
	stopTimeout = 4 * time.Second
	// streamWorkers are goroutines that are kept for calls: their stacks have
	// grown already. More calls than that at a time get new ones.
	streamWorkers = 16
)

// Config is the configuration of a Server. All paths are absolute.
type Config struct {
	// RuntimeSocket is the unix socket of the runtime.
	RuntimeSocket string
	// VMLogLocation is the directory of the raw logs as the runtime sees it;
	// empty if consoles are ptys.
	VMLogLocation string
	// VMLogDir is the same directory as this host sees it.
	VMLogDir string
	// PodLogsDir is kubelet's podLogsDir.
	PodLogsDir string
	// LogMode is where the consoles of pods go that do not say it themselves.
	// It is pty if there is no VMLogLocation.
	LogMode logmap.Mode
	// Intercept says which pods are ours; "" is InterceptAll.
	Intercept Intercept
	// Personality says which repairs the runtime gets.
	Personality personality.Choice
}

// Server is the proxy.
type Server struct {
	cfg        Config
	logs       *logmap.Map
	converters *converter.Manager
	consoles   Consoles // nil: no libvirt
	runtime    *runtimeConn
	grpc       *grpc.Server

	faults faults
	others idSet // containers that are known not to be ours
	alive  idSet // containers that this process has seen running, or started

	starting idSet // containers that StartContainer is under way for

	onlyAnnotated atomic.Bool // see Config.onlyAnnotated; for the same runtime as repairs

	repairs atomic.Pointer[personality.Set] // for the last runtime that has told its name
	ending  sync.Map                        // see endAttempts: ID of kubelet's ▸ *logmap.Attempt

	hanging atomic.Int32 // looks at kubelet's log directories that have not come back

	removed removals // what kubelet removes while the runtime's lists are looked at

	lookAgain        time.Duration // reconcileAgain; tests have less time
	missing          missing       // containers on record that the runtime does not list; reconcile's own
	missingSandboxes missing       // the same
	doubting         bool          // see forgetContainers
}

// New makes a Server that keeps its records in logs and its converters in
// converters, and has consoles set up by libvirt; consoles may be nil. The
// caller closes all three, after Run has returned.
func New(cfg Config, logs *logmap.Map, converters *converter.Manager, consoles Consoles) (*Server, error) {
	s := &Server{cfg: cfg, logs: logs, converters: converters, consoles: consoles}
	s.choose(s.lastRuntime())
	runtime, err := dialRuntime(cfg.RuntimeSocket, s.runtimeIs)
	if err != nil {
		return nil, fmt.Errorf("runtime endpoint: %w", err)
	}
	s.runtime = runtime
	s.lookAgain = reconcileAgain
	s.grpc = grpc.NewServer(
		grpc.ForceServerCodecV2(newCodec()),
		grpc.UnknownServiceHandler(s.forward),
		grpc.MaxRecvMsgSize(MaxMessageSize),
		grpc.StaticStreamWindowSize(streamWindow),
		grpc.StaticConnWindowSize(connWindow),
		grpc.WaitForHandlers(true),
		grpc.NumStreamWorkers(streamWorkers),
		// Stop waits for peers that connect and say nothing.
		grpc.ConnectionTimeout(stopTimeout),
	)
	for _, v := range api.Versions {
		s.grpc.RegisterService(s.serviceDesc(v, runtimeapi.RuntimeService_ServiceDesc, api.RuntimeService), s)
		s.grpc.RegisterService(s.serviceDesc(v, runtimeapi.ImageService_ServiceDesc, api.ImageService), s)
	}
	return s, nil
}

// Run serves calls from l until ctx ends, then lets those that are under way
// finish, within a bound. It closes l. Converters that the log map knows of are
// resumed before the first call is taken.
func (s *Server) Run(ctx context.Context, l net.Listener) error {
	s.resume(ctx)
	watching, stopWatching := context.WithCancel(context.WithoutCancel(ctx))
	var background sync.WaitGroup
	background.Go(func() {
		watchRuntime(watching, s.runtime, s.reconcile)
	})
	background.Go(func() {
		select {
		case <-ctx.Done():
			s.stop()
		case <-watching.Done():
		}
	})
	err := s.grpc.Serve(l)
	if errors.Is(err, grpc.ErrServerStopped) {
		err = nil
	}
	stopWatching()
	background.Wait()
	return errors.Join(err, s.runtime.Close())
}

// stop ends the gRPC server: gracefully if it can be, for streams such as
// GetContainerEvents never end.
func (s *Server) stop() {
	graceful := make(chan struct{})
	go func() {
		defer close(graceful)
		s.grpc.GracefulStop()
	}()
	select {
	case <-graceful:
	case <-time.After(stopTimeout):
		glog.Infof("cutting off the calls and streams that have not finished within %v: their clients get Unavailable", stopTimeout)
		s.grpc.Stop()
		<-graceful
	}
}

// rawRoot is the directory of the raw logs on this host.
func (s *Server) rawRoot() string { return s.cfg.VMLogDir }

// run is the conversion of a container on record.
func (s *Server) run(c logmap.Container) (converter.Run, error) {
	if c.Mode != logmap.ModePTY && s.rawRoot() == "" {
		return converter.Run{}, errors.New("its console was logged to a file, and now consoles are said to be ptys: set --vm-log-location")
	}
	rel, err := filepath.Rel(s.cfg.PodLogsDir, c.ContainerLog)
	if err != nil || !filepath.IsLocal(rel) {
		return converter.Run{}, &converter.UnsafePathError{Path: c.ContainerLog, Rule: "it is not below --pod-logs-dir " + s.cfg.PodLogsDir, Remedy: "set --pod-logs-dir to kubelet's podLogsDir"}
	}
	run := converter.Run{ContainerID: c.ID, RawNames: c.RawLogs, RawAppends: c.RawAppends, LogName: rel, Notice: c.Notice}
	if c.Mode == logmap.ModePTY && c.Notice == "" {
		run.Notice = ptyNotice
	}
	return run, nil
}

// ptyNotice is what `kubectl logs` shows of a VM whose console is a pty.
const ptyNotice = "this VM's console is a pty (mode pty): it has no log; use `virsh console` on its node"
