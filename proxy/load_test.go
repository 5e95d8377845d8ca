package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-logproxy/cri-logproxy/proxy/proxytest"
)

const (
	loadClients = 64
	// loadCalls is how many calls TestLoad makes; $LOAD_CALLS is another number.
	loadCalls = 3000
	// loadRestarts is how often the runtime is restarted at the least.
	loadRestarts = 3
)

// TestLoad has many clients make calls of all kinds, each with something to tell
// its answer by, while the runtime is killed each second. A call that is told
// Unavailable is made again, so each gets its answer in the end.
func TestLoad(t *testing.T) {
	calls := loadCalls
	if s := os.Getenv("LOAD_CALLS"); s != "" {
		var err error
		if calls, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	nothingLeft := leftovers(t)
	t.Run("calls", func(t *testing.T) {
		r := newRig(t, nil, nil)
		handleLoad(r.backend)
		var made, unavailable, restarts atomic.Int64
		ctx, cancel := context.WithCancel(t.Context())
		var restarter, clients sync.WaitGroup
		restarter.Go(func() { restartEachSecond(ctx, t, r.backend, &restarts) })
		for range loadClients {
			clients.Go(func() {
				conn, err := proxytest.Dial(r.socket())
				if err != nil {
					t.Error(err)
					return
				}
				defer conn.Close()
				for !t.Failed() {
					n := made.Add(1)
					if n > int64(calls) && restarts.Load() >= loadRestarts {
						return
					}
					if err := untilAnswered(ctx, conn, n, &unavailable); err != nil {
						t.Errorf("call %d: %v", n, err)
					}
				}
			})
		}
		clients.Wait()
		cancel()
		restarter.Wait()
		t.Logf("%d calls, %d times told Unavailable, %d restarts of the runtime", made.Load()-loadClients, unavailable.Load(), restarts.Load())
	})
	nothingLeft()
}

// leftovers returns a check that there are no more goroutines and descriptors
// than now.
func leftovers(t *testing.T) (check func()) {
	count := func() (goroutines, descriptors int) {
		open, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return runtime.NumGoroutine(), len(open)
	}
	goroutines, descriptors := count()
	return func() {
		t.Helper()
		eventually(t, fmt.Sprintf("%d goroutines and %d descriptors as before", goroutines, descriptors), func() bool {
			g, d := count()
			return g <= goroutines && d <= descriptors
		})
	}
}

// restartEachSecond kills the runtime and starts it again, until ctx ends.
func restartEachSecond(ctx context.Context, t *testing.T, b *proxytest.Backend, restarts *atomic.Int64) {
	const period, away = time.Second, 50 * time.Millisecond
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(period):
		}
		b.Stop()
		<-time.After(away)
		if err := b.Restart(); err != nil {
			t.Error(err)
			return
		}
		restarts.Add(1)
	}
}

// untilAnswered makes the n-th call until the answer is another than that the
// runtime is away.
func untilAnswered(ctx context.Context, conn *grpc.ClientConn, n int64, unavailable *atomic.Int64) error {
	kind := loadKinds[n%int64(len(loadKinds))]
	for attempt := 0; ; attempt++ {
		tag := fmt.Sprintf("call-%d-%d", n, attempt)
		ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(ctx, "load", tag), time.Minute)
		err := kind(ctx, conn, tag)
		cancel()
		if status.Code(err) != codes.Unavailable {
			return err
		}
		unavailable.Add(1)
		<-time.After(10 * time.Millisecond)
	}
}

// handleLoad makes the runtime one whose answers tell which call they are for.
func handleLoad(b *proxytest.Backend) {
	b.Handle("Version", proxytest.Typed(func(_ context.Context, r *runtimeapi.VersionRequest) (*runtimeapi.VersionResponse, error) {
		return &runtimeapi.VersionResponse{Version: r.Version}, nil
	}))
	b.Handle("ContainerStatus", proxytest.Typed(func(_ context.Context, r *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
		return &runtimeapi.ContainerStatusResponse{Status: &runtimeapi.ContainerStatus{Id: r.ContainerId, State: runtimeapi.ContainerState_CONTAINER_EXITED}}, nil
	}))
	b.Handle("ExecSync", proxytest.Typed(func(_ context.Context, r *runtimeapi.ExecSyncRequest) (*runtimeapi.ExecSyncResponse, error) {
		return &runtimeapi.ExecSyncResponse{Stdout: []byte(strings.Repeat(r.ContainerId+"\n", 2_000))}, nil
	}))
	b.Handle("StopContainer", proxytest.Typed(func(_ context.Context, r *runtimeapi.StopContainerRequest) (*runtimeapi.StopContainerResponse, error) {
		return nil, status.Error(codes.NotFound, r.ContainerId)
	}))
	b.Handle("StreamContainers", func(s *proxytest.Stream) error {
		return sendTagged(s, func(tag string) proto.Message {
			return &runtimeapi.StreamContainersResponse{Containers: []*runtimeapi.Container{{Id: tag}}}
		})
	})
	b.Handle("GetContainerEvents", func(s *proxytest.Stream) error {
		return sendTagged(s, func(tag string) proto.Message {
			return &runtimeapi.ContainerEventResponse{ContainerId: tag, ContainersStatuses: []*runtimeapi.ContainerStatus{{Id: tag}}}
		})
	})
}

// streamed is how many messages a stream has.
const streamed = 20

func sendTagged(s *proxytest.Stream, answer func(tag string) proto.Message) error {
	if _, err := s.RecvAll(); err != nil {
		return err
	}
	md, _ := metadata.FromIncomingContext(s.Context())
	msg, err := proto.Marshal(answer(strings.Join(md.Get("load"), ",")))
	for i := 0; i < streamed && err == nil; i++ {
		err = s.Send(msg)
	}
	return err
}

// loadKinds are the kinds of calls. Each returns an error if the answer is not
// its own.
var loadKinds = []func(ctx context.Context, conn *grpc.ClientConn, tag string) error{
	loadVersion, loadStatus, loadExec, loadRefusal, loadStream, loadEvents, loadEcho, loadAbandoned,
}

func loadVersion(ctx context.Context, conn *grpc.ClientConn, tag string) error {
	resp, err := runtimeapi.NewRuntimeServiceClient(conn).Version(ctx, &runtimeapi.VersionRequest{Version: tag})
	return own(err, tag, resp.GetVersion())
}

// loadStatus is decoded and rewritten.
func loadStatus(ctx context.Context, conn *grpc.ClientConn, tag string) error {
	resp, err := runtimeapi.NewRuntimeServiceClient(conn).ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: tag})
	return errors.Join(own(err, tag, resp.GetStatus().GetId()), own(err, noLog(tag), resp.GetStatus().GetLogPath()))
}

// loadExec has a large answer.
func loadExec(ctx context.Context, conn *grpc.ClientConn, tag string) error {
	resp, err := runtimeapi.NewRuntimeServiceClient(conn).ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: tag})
	return own(err, strings.Repeat(tag+"\n", 2_000), string(resp.GetStdout()))
}

func loadRefusal(ctx context.Context, conn *grpc.ClientConn, tag string) error {
	_, err := runtimeapi.NewRuntimeServiceClient(conn).StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: tag})
	if status.Code(err) == codes.NotFound {
		return own(nil, tag, status.Convert(err).Message())
	}
	return fmt.Errorf("refused otherwise: %w", err)
}

func loadStream(ctx context.Context, conn *grpc.ClientConn, tag string) error {
	stream, err := runtimeapi.NewRuntimeServiceClient(conn).StreamContainers(ctx, &runtimeapi.StreamContainersRequest{})
	return takeAll(stream, err, tag, func(r *runtimeapi.StreamContainersResponse) string { return r.Containers[0].Id })
}

// loadEvents is a stream of which each message is rewritten.
func loadEvents(ctx context.Context, conn *grpc.ClientConn, tag string) error {
	stream, err := runtimeapi.NewRuntimeServiceClient(conn).GetContainerEvents(ctx, &runtimeapi.GetEventsRequest{})
	return takeAll(stream, err, tag, func(r *runtimeapi.ContainerEventResponse) string { return r.ContainersStatuses[0].Id })
}

// takeAll takes a stream's messages, all of which must be the call's own.
func takeAll[T any](stream grpc.ServerStreamingClient[T], err error, tag string, tagOf func(*T) string) error {
	for i := 0; err == nil; i++ {
		var msg *T
		msg, err = stream.Recv()
		if errors.Is(err, io.EOF) && i == streamed {
			return nil
		}
		if err == nil {
			err = own(nil, tag, tagOf(msg))
		}
	}
	return err
}

// loadEcho talks both ways, under a service that is not CRI's.
func loadEcho(ctx context.Context, conn *grpc.ClientConn, tag string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/example.Echo/Talk")
	if err != nil {
		return err
	}
	for i := range 5 {
		said, heard := wrapperspb.String(fmt.Sprint(tag, " ", i)), &wrapperspb.StringValue{}
		if err := stream.SendMsg(said); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if err := own(stream.RecvMsg(heard), said.Value, heard.Value); err != nil {
			return err
		}
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	if err := stream.RecvMsg(&wrapperspb.StringValue{}); !errors.Is(err, io.EOF) {
		return fmt.Errorf("after the end of the talk: %w", err)
	}
	return nil
}

// loadAbandoned is a stream that its client drops after the first message.
func loadAbandoned(ctx context.Context, conn *grpc.ClientConn, tag string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := runtimeapi.NewRuntimeServiceClient(conn).StreamContainers(ctx, &runtimeapi.StreamContainersRequest{})
	if err != nil {
		return err
	}
	msg, err := stream.Recv()
	if err != nil {
		return err
	}
	return own(nil, tag, msg.Containers[0].Id)
}

// own checks that an answer is that of the call, if there is one.
func own(err error, want, got string) error {
	if err == nil && got != want {
		return fmt.Errorf("the answer is %.80q, want %.80q", got, want)
	}
	return err
}
