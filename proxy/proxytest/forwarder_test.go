package proxytest

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// forwarder is the least proxy that passes, and its faults are those that it
// is made with.
type forwarder struct {
	backend *grpc.ClientConn
	faults
}

type faults struct {
	noMetadata, noHeader, lateHeader, noTrailer, noDetails bool
	noCancel, noDeadline, madeUpDeadline                   bool
	grpcLimits, buffered, noHalfClose, dropsUnknown        bool
	dropsMessage, onlyV1, callsTwice, foreignCodec         bool

	renames [2]string // an API version, and the one that its calls are renamed to
}

// namedCodec is the raw codec under another name.
type namedCodec struct{ rawCodec }

func (namedCodec) Name() string { return "raw" }

// forwardThrough returns a front that is a forwarder.
func forwardThrough(f faults) Front {
	return func(t *testing.T, backend *Backend) string {
		conn, err := Dial(backend.Socket())
		if err != nil {
			t.Fatal(err)
		}
		dir, err := os.MkdirTemp("", "forwarder")
		if err != nil {
			t.Fatal(err)
		}
		socket := filepath.Join(dir, "proxy.sock")
		listener, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		p := &forwarder{backend: conn, faults: f}
		options := []grpc.ServerOption{grpc.ForceServerCodecV2(rawCodec{}), grpc.UnknownServiceHandler(p.serve)}
		if !f.grpcLimits {
			options = append(options, grpc.MaxRecvMsgSize(MaxMessage))
		}
		server := grpc.NewServer(options...)
		served := make(chan error, 1)
		go func() { served <- server.Serve(listener) }()
		t.Cleanup(func() {
			server.Stop()
			if err := <-served; err != nil {
				t.Error(err)
			}
			if err := errors.Join(conn.Close(), os.RemoveAll(dir)); err != nil {
				t.Error(err)
			}
		})
		return socket
	}
}

func (p *forwarder) serve(_ any, front grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(front)
	ctx, cancel := p.context(front.Context())
	defer cancel()
	options := []grpc.CallOption{grpc.ForceCodecV2(rawCodec{})}
	if p.foreignCodec {
		options[0] = grpc.ForceCodecV2(namedCodec{})
	}
	if p.grpcLimits {
		options = append(options, grpc.MaxCallRecvMsgSize(4<<20))
	}
	if service, _ := splitMethod(method); p.onlyV1 && service == V1alpha2+".RuntimeService" {
		return status.Errorf(codes.Unimplemented, "unknown service %s", service)
	}
	if service, _ := splitMethod(method); p.renames[0] != "" && inPackage(service, p.renames[0]) {
		method = strings.Replace(method, p.renames[0], p.renames[1], 1)
	}
	back, err := p.backend.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method, options...)
	if err != nil {
		return err
	}
	if p.callsTwice {
		again, err := p.backend.NewStream(ctx, &grpc.StreamDesc{}, method, options...)
		if err == nil {
			_ = again.CloseSend()
		}
	}
	requestErr := make(chan error, 1)
	go func() {
		err := p.requests(front, back)
		if err != nil {
			cancel() // the backend must not wait for what will not come
		}
		requestErr <- err
	}()
	answerErr := p.answers(front, back)
	if !p.noTrailer {
		trailer := back.Trailer()
		if p.noDetails {
			trailer.Delete("grpc-status-details-bin") // which is all it takes to pass them on
		}
		front.SetTrailer(trailer)
	}
	if errors.Is(answerErr, io.EOF) {
		return nil
	}
	select {
	case err := <-requestErr: // what cancelled it is the reason, not that
		if err != nil {
			return err
		}
	default:
	}
	if p.noDetails {
		return status.Error(status.Code(answerErr), status.Convert(answerErr).Message())
	}
	return answerErr
}

func (p *forwarder) context(ctx context.Context) (context.Context, context.CancelFunc) {
	md, _ := metadata.FromIncomingContext(ctx)
	if !p.noMetadata {
		ctx = metadata.NewOutgoingContext(ctx, md)
	} else {
		ctx = metadata.NewOutgoingContext(ctx, metadata.MD{tagKey: md[tagKey]})
	}
	if p.noCancel || p.noDeadline {
		bare, cancel := context.WithCancel(context.WithoutCancel(ctx))
		if p.noDeadline {
			context.AfterFunc(ctx, cancel)
		}
		return bare, cancel
	}
	if p.madeUpDeadline {
		return context.WithTimeout(ctx, time.Minute)
	}
	return context.WithCancel(ctx)
}

// requests copies towards the backend.
func (p *forwarder) requests(front grpc.ServerStream, back grpc.ClientStream) error {
	for {
		var f frame
		err := front.RecvMsg(&f)
		if errors.Is(err, io.EOF) {
			if p.noHalfClose {
				return nil
			}
			return back.CloseSend()
		}
		if err != nil {
			return err
		}
		if err := back.SendMsg(&f); err != nil {
			return nil // the reason is in the answers
		}
	}
}

// answers copies towards the client.
func (p *forwarder) answers(front grpc.ServerStream, back grpc.ClientStream) error {
	if !p.noHeader && !p.lateHeader {
		if header, err := back.Header(); err == nil && header != nil {
			if err := front.SendHeader(header); err != nil {
				return err
			}
		}
	}
	var held []*frame
	for i := 0; ; i++ {
		var f frame
		if err := back.RecvMsg(&f); err != nil {
			for _, f := range held {
				_ = front.SendMsg(f)
			}
			return err
		}
		if header, _ := back.Header(); p.lateHeader && i == 0 {
			_ = front.SetHeader(header)
		}
		if p.dropsUnknown {
			f.data = withoutUnknown(f.data)
		}
		switch {
		case p.buffered:
			held = append(held, &f)
		case p.dropsMessage && i == 2:
		default:
			if err := front.SendMsg(&f); err != nil {
				return err
			}
		}
	}
}
