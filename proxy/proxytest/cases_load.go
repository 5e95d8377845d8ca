package proxytest

import (
	"fmt"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
)

// loadCases make many calls at once.
func loadCases() []testCase {
	return []testCase{
		{"two API versions at once", func(s *session) { storm(s, 2, 20) }},
		{"storm", func(s *session) { storm(s, 8, 40) }},
	}
}

// storm has some clients, of both API versions in turn, make calls of all
// kinds at the same time, and gives every call something to tell its answer by.
func storm(s *session, clients, calls int) {
	s.handle(unknownService, func(b *Stream) error {
		md, _ := metadata.FromIncomingContext(b.Context())
		b.SetTrailer(metadata.Pairs("trailer-of", fmt.Sprint(md.Get(tagKey))))
		return b.Answer()
	})
	s.backend.Handle("StopContainer", func(b *Stream) error {
		md, _ := metadata.FromIncomingContext(b.Context())
		if _, err := b.RecvAll(); err != nil {
			return err
		}
		return detailed(codes.NotFound, fmt.Sprint(md.Get(tagKey)))
	})
	var wg sync.WaitGroup
	for client := range clients {
		wg.Go(func() { stormClient(s, client, calls) })
	}
	wg.Wait()
}

// stormClient is one of the clients, with a connection of its own.
func stormClient(s *session, client, calls int) {
	conn, err := Dial(s.socket)
	if err != nil {
		s.problem("client %d: %v", client, err)
		return
	}
	defer func() { _ = conn.Close() }()
	api := []string{V1, V1alpha2}[client%2]
	rpcs := RPCs()
	var wg sync.WaitGroup
	for i := range calls {
		wg.Go(func() {
			call := fmt.Sprintf("client %d call %s", client, number(i))
			if i%5 == 0 {
				x := s.openOn(s.ctx, conn, call, unknownService)
				for j := range 5 {
					x.send([]byte(fmt.Sprintf("%s message %d", call, j)))
					x.take()
				}
				x.halfClose()
				x.drain()
				return
			}
			rpc := rpcs[(client+i)%len(rpcs)]
			request := populated(rpc.NewRequest(), client*calls+i)
			if rpc.ServerStreams {
				x := s.openOn(s.ctx, conn, call, rpc.Path(api))
				x.send(request)
				x.halfClose()
				x.drain()
				return
			}
			s.unaryOn(s.ctx, conn, call, rpc.Path(api), request)
		})
	}
	wg.Wait()
}
