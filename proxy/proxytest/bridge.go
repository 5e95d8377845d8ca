package proxytest

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

// RunBridge makes every RPC that two API versions have, and compares a client of
// one before a runtime of its own with that client before a proxy and a runtime
// of the other. What the client and the runtime mean must be the same.
func RunBridge(t *testing.T, front Front, client, runtime string, opts Options) {
	t.Helper()
	opts = bridgedOptions(opts, client, runtime)
	for _, c := range bridgeCases(client, runtime) {
		t.Run(c.name, func(t *testing.T) {
			for _, m := range compare(t, c, front, opts) {
				t.Error(m)
			}
		})
	}
}

// bridgedOptions are options for a proxy that calls a runtime of another version.
func bridgedOptions(opts Options, client, runtime string) Options {
	opts.directAPIs, opts.throughAPIs = []string{client}, []string{runtime}
	opts.Method = func(method string) string {
		service, name := splitMethod(method)
		if !inPackage(service, client) {
			return method
		}
		return "/" + runtime + strings.TrimPrefix(service, client) + "/" + name
	}
	if (client == V1alpha1) != (runtime == V1alpha1) {
		opts.Expect = bridgedRewrites(opts.Expect, client, runtime)
	}
	return opts
}

// bridgeCases are the cases of one client and one runtime.
func bridgeCases(client, runtime string) []testCase {
	var rpcs []RPC
	for _, r := range RPCs() {
		if r.Exists(client) && r.Exists(runtime) {
			rpcs = append(rpcs, r)
		}
	}
	var cases []testCase
	for seed := range 3 { // as many as there are modes of a namespace to populate with
		cases = append(cases, testCase{fmt.Sprintf("every RPC, values %d", seed), func(s *session) { eachRPC(s, client, rpcs, seed) }})
	}
	return append(cases,
		testCase{"every RPC is refused", func(s *session) { eachRefused(s, client, rpcs) }},
		testCase{"empty messages", func(s *session) { eachEmpty(s, client, rpcs) }},
		testCase{"unknown service", func(s *session) { echoes(s, unknownService) }},
	)
}

// bridgedRewrites are rewrites, and then that the messages with NamespaceOption
// have gone from one version to the other. The answers come from the runtime's,
// which may have less to say, and go back to the client's.
func bridgedRewrites(rewrites map[string]Rewrite, client, runtime string) map[string]Rewrite {
	all := make(map[string]Rewrite)
	maps.Copy(all, rewrites)
	for _, name := range []string{"RunPodSandbox", "CreateContainer", "PodSandboxStatus"} {
		rewrite := rewrites[name]
		all[name] = func(dir Direction, msg proto.Message) {
			if rewrite != nil {
				rewrite(dir, msg)
			}
			translated(msg, client, runtime)
			if dir == Answer {
				translated(msg, runtime, client)
			}
		}
	}
	return all
}

// eachRPC calls the RPCs with every field set, and has header and trailer come
// back.
func eachRPC(s *session, client string, rpcs []RPC, seed int) {
	for i, rpc := range rpcs {
		s.backend.Handle(rpc.Name, func(b *Stream) error {
			b.SetTrailer(someMetadata("trailer"))
			if err := b.SetHeader(someMetadata("header")); err != nil {
				return err
			}
			if _, err := b.RecvAll(); err != nil {
				return err
			}
			answer := rpc.NewAnswer()
			Populate(answer, seed+i)
			return b.Send(spoken(b.Method(), answer))
		})
		method := rpc.Path(client)
		request := rpc.NewRequest()
		Populate(request, seed+i)
		s.call(rpc, method, spoken(method, request))
	}
}

func eachRefused(s *session, client string, rpcs []RPC) {
	for _, rpc := range rpcs {
		s.backend.Handle(rpc.Name, func(b *Stream) error {
			if _, err := b.RecvAll(); err != nil {
				return err
			}
			b.SetTrailer(someMetadata("trailer"))
			return detailed(codes.NotFound, rpc.Name+": no such thing")
		})
		method := rpc.Path(client)
		s.call(rpc, method, requestFor(method))
	}
}

func eachEmpty(s *session, client string, rpcs []RPC) {
	for _, rpc := range rpcs {
		s.backend.Handle(rpc.Name, func(b *Stream) error {
			if _, err := b.RecvAll(); err != nil {
				return err
			}
			return b.Send(nil)
		})
		s.call(rpc, rpc.Path(client), nil)
	}
}

// call makes a call of either kind, to its end.
func (s *session) call(rpc RPC, method string, request []byte) {
	if rpc.ServerStreams {
		s.ask(s.ctx, rpc.Name, method, request).drain()
		return
	}
	s.unary(s.ctx, rpc.Name, method, request)
}
