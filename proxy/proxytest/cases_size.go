package proxytest

// sizeCases are about big messages. A node with thousands of containers has
// them in its list calls, and gRPC's own limit is 4 MiB.
func sizeCases() []testCase {
	return []testCase{
		{"16 MiB in the request", func(s *session) { bigRequests(s, MaxMessage) }},
		{"16 MiB in the answer", func(s *session) { bigAnswers(s, MaxMessage) }},
		{"17 MiB in the request", func(s *session) { bigRequests(s, MaxMessage+1<<20) }},
		{"17 MiB in the answer", func(s *session) { bigAnswers(s, MaxMessage+1<<20) }},
	}
}

// bigRequests makes a call of which the request is that big, to an RPC that a
// proxy decodes. A server has but one limit for what it receives.
func bigRequests(s *session, size int) {
	const method = "/" + V1 + ".RuntimeService/CreateContainer"
	if size > MaxMessage {
		s.ignoreJournal(method) // anyone on the way may refuse it
	}
	s.unary(s.ctx, method, method, padded(size))
}

// bigAnswers makes calls of which the answer is that big: one that a proxy
// forwards and a stream that it decodes. A client has a limit for every call.
func bigAnswers(s *session, size int) {
	answer := padded(size)
	send := func(b *Stream) error {
		if _, err := b.RecvAll(); err != nil {
			return err
		}
		return b.Send(answer)
	}
	unary, stream := unaryMethods()[0], streamMethods()[1]
	s.handle(unary, send)
	s.handle(stream, send)
	if size > MaxMessage {
		s.ignoreJournal(unary) // it may be cancelled while it is sent
		s.ignoreJournal(stream)
	}
	s.unary(s.ctx, unary, unary, requestFor(unary))
	s.ask(s.ctx, stream, stream, requestFor(stream)).drain()
}
