package proxytest

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// hangLimit bounds the cases that a fault makes hang.
const hangLimit = time.Second

func TestDirect(t *testing.T) {
	t.Parallel()
	Run(t, func(_ *testing.T, backend *Backend) string { return backend.Socket() }, Options{})
}

func TestThroughForwarder(t *testing.T) {
	t.Parallel()
	Run(t, forwardThrough(faults{}), Options{})
}

// TestFaultsAreFound breaks the forwarder in one way at a time and names the
// case and the words with which the suite must object.
func TestFaultsAreFound(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		faults faults
		inCase string
		says   string
		hangs  bool
	}{
		"request metadata dropped":  {faults: faults{noMetadata: true}, inCase: "metadata of the request", says: "request-bin"},
		"header dropped":            {faults: faults{noHeader: true}, inCase: "header and trailer", says: "header-one"},
		"header held back":          {faults: faults{lateHeader: true}, inCase: "header before the first message", says: "header", hangs: true},
		"trailer dropped":           {faults: faults{noTrailer: true}, inCase: "header and trailer", says: "trailer-one"},
		"trailer of error dropped":  {faults: faults{noTrailer: true}, inCase: "trailer of a refusal", says: "trailer-one"},
		"details dropped":           {faults: faults{noDetails: true}, inCase: "every RPC fails with details", says: "example.com/unknown.Type"},
		"cancel not passed on":      {faults: faults{noCancel: true}, inCase: "client cancels a stream", says: "has not ended", hangs: true},
		"deadline dropped":          {faults: faults{noDeadline: true}, inCase: "deadline", says: "1h0m0s"},
		"deadline made up":          {faults: faults{madeUpDeadline: true}, inCase: "deadline", says: "1m0s"},
		"gRPC's limit for requests": {faults: faults{grpcLimits: true}, inCase: "16 MiB in the request", says: "4194304"},
		"gRPC's limit for answers":  {faults: faults{grpcLimits: true}, inCase: "17 MiB in the answer", says: "4194304"},
		"stream buffered":           {faults: faults{buffered: true}, inCase: "client cancels a stream", says: "answer 000: missing", hangs: true},
		"half-close not passed on":  {faults: faults{noHalfClose: true}, inCase: "half-close", says: "answer 003: missing", hangs: true},
		"unknown fields dropped":    {faults: faults{dropsUnknown: true}, inCase: "generated client", says: "messages differ"},
		"message dropped":           {faults: faults{dropsMessage: true}, inCase: "status after some messages", says: "missing"},
		"one API version only":      {faults: faults{onlyV1: true}, inCase: "every RPC of v1alpha2", says: "Unimplemented"},
		"call made twice":           {faults: faults{callsTwice: true}, inCase: "unknown service", says: "only through the proxy"},
		"content type of its own":   {faults: faults{foreignCodec: true}, inCase: "generated client", says: "content type"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var opts Options
			if test.hangs {
				opts.limit = hangLimit
			}
			found := compare(t, caseNamed(t, test.inCase), forwardThrough(test.faults), opts)
			for _, m := range found {
				if strings.Contains(m, test.says) {
					return
				}
			}
			t.Errorf("the suite found %q, which says nothing of %q", found, test.says)
		})
	}
}

// TestExpect has answers changed on the way, which is a fault until the
// options say that it is meant.
func TestExpect(t *testing.T) {
	front := forwardThrough(faults{dropsUnknown: true})
	c := testCase{"status", func(s *session) {
		const method = "/" + V1 + ".RuntimeService/RuntimeConfig"
		s.unary(s.ctx, "call", method, requestFor(method))
	}}
	if found := compare(t, c, front, Options{}); len(found) == 0 {
		t.Error("the change is not found")
	}
	meant := Options{Expect: map[string]Rewrite{"RuntimeConfig": func(dir Direction, msg proto.Message) {
		if dir == Answer {
			msg.ProtoReflect().SetUnknown(nil)
		}
	}}}
	if found := compare(t, c, front, meant); len(found) > 0 {
		t.Errorf("the change is meant and found all the same: %q", found)
	}
	other := Options{Expect: map[string]Rewrite{"RuntimeConfig": func(_ Direction, msg proto.Message) {
		if answer, ok := msg.(*runtimeapi.RuntimeConfigResponse); ok {
			answer.Linux = nil
		}
	}}}
	if found := compare(t, c, front, other); len(found) == 0 {
		t.Error("another change than the one meant is not found")
	}
}

// TestMethod has the calls reach the backend under another name than they are
// expected to.
func TestMethod(t *testing.T) {
	rename := func(method string) string { return strings.Replace(method, V1alpha2, V1, 1) }
	found := compare(t, caseNamed(t, "every RPC of v1alpha2"), forwardThrough(faults{}), Options{Method: rename})
	if len(found) != len(RPCs()) {
		t.Errorf("want a difference for each of %d RPCs, got %q", len(RPCs()), found)
	}
}

func caseNamed(t *testing.T, name string) testCase {
	t.Helper()
	for _, c := range suite() {
		if c.name == name {
			return c
		}
	}
	t.Fatalf("no case %q", name)
	return testCase{}
}

// withoutUnknown cuts the field that Populate adds off the end of a message.
func withoutUnknown(data []byte) []byte {
	for rest := data; len(rest) > 0; {
		number, _, n := protowire.ConsumeField(rest)
		if n < 0 {
			return data
		}
		if number == unknownField {
			return data[:len(data)-len(rest)]
		}
		rest = rest[n:]
	}
	return data
}
