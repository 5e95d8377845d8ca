package proxytest

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// transcript is what a case saw: facts by name. Names begin with the name of
// the call that they belong to.
type transcript struct {
	mu       sync.Mutex
	facts    map[string]fact
	problems []string
}

// fact is a text or a message.
type fact struct {
	text string

	message bool
	data    []byte
	method  string
	dir     Direction
}

func newTranscript() *transcript { return &transcript{facts: make(map[string]fact)} }

// note adds a fact. One that is there already keeps its name, and the new one
// gets another, so that a call that was made twice shows.
func (t *transcript) note(name string, f fact) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for {
		if _, taken := t.facts[name]; !taken {
			break
		}
		name += " again"
	}
	t.facts[name] = f
}

func (t *transcript) noteText(name, format string, args ...any) {
	t.note(name, fact{text: fmt.Sprintf(format, args...)})
}

func (t *transcript) noteMessage(name, method string, dir Direction, data []byte) {
	t.note(name, fact{message: true, data: data, method: method, dir: dir})
}

// problem notes that a case did not work out, which is wrong even if it
// happens with and without the proxy.
func (t *transcript) problem(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.problems = append(t.problems, fmt.Sprintf(format, args...))
}

func (t *transcript) problemsAs(how string) []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []string
	for _, p := range t.problems {
		all = append(all, how+": "+p)
	}
	return all
}

// methodFact is the end of the name of the fact that is the method under which
// a call reached the backend.
const methodFact = " at the backend: method"

func (t *transcript) renameMethods(rename func(string) string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for name, f := range t.facts {
		if strings.HasSuffix(name, methodFact) {
			f.text = rename(f.text)
			t.facts[name] = f
		}
	}
}

// diff lists what is not in through as it is in t and the rewrites have it.
func (t *transcript) diff(through *transcript, expect map[string]Rewrite) []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	through.mu.Lock()
	defer through.mu.Unlock()
	names := maps.Clone(t.facts)
	maps.Copy(names, through.facts)
	var found []string
	for _, name := range slices.Sorted(maps.Keys(names)) {
		want, atDirect := t.facts[name]
		got, atThrough := through.facts[name]
		switch {
		case !atThrough:
			found = append(found, fmt.Sprintf("%s: missing through the proxy; directly %v", name, want))
		case !atDirect:
			found = append(found, fmt.Sprintf("%s: only through the proxy: %v", name, got))
		default:
			if d := want.diff(got, expect); d != "" {
				found = append(found, name+": "+d)
			}
		}
	}
	return found
}

// diff says how got differs from f as the rewrites have it, or "".
func (f fact) diff(got fact, expect map[string]Rewrite) string {
	if f.message && got.message {
		want := f.data
		if rpc, ok := findRPC(f.method); ok {
			if rewrite, ok := expect[rpc.Name]; ok {
				want = canonical(rpc, f.dir, want, rewrite)
				got.data = canonical(rpc, f.dir, got.data, nil)
			}
		}
		return diffBytes(want, got.data)
	}
	if f.message == got.message && f.text == got.text {
		return ""
	}
	return fmt.Sprintf("\ndirectly          %v\nthrough the proxy %v", f, got)
}

// String shows a fact in a bounded space.
func (f fact) String() string {
	if !f.message {
		return f.text
	}
	return show(f.data)
}

// canonical decodes, rewrites and encodes a message. One that cannot be
// decoded stays as it is.
func canonical(rpc RPC, dir Direction, data []byte, rewrite Rewrite) []byte {
	msg := rpc.NewRequest()
	if dir == Answer {
		msg = rpc.NewAnswer()
	}
	if err := proto.Unmarshal(data, msg); err != nil {
		return data
	}
	if rewrite != nil {
		rewrite(dir, msg)
	}
	return encode(msg)
}

// diffBytes shows two messages from shortly before where they part.
func diffBytes(want, got []byte) string {
	if bytes.Equal(want, got) {
		return ""
	}
	at := 0
	for at < len(want) && at < len(got) && want[at] == got[at] {
		at++
	}
	from := max(0, at-16)
	return fmt.Sprintf("messages differ from byte %d on; shown from byte %d\nexpected          %s\nthrough the proxy %s",
		at, from, show(want[from:]), show(got[from:]))
}

func show(data []byte) string {
	const most = 96
	if len(data) <= most {
		return fmt.Sprintf("%q", data)
	}
	return fmt.Sprintf("%q and %d bytes more", data[:most], len(data)-most)
}

// showMetadata writes metadata out in a fixed order.
func showMetadata(md metadata.MD) string {
	md = withoutTransport(md)
	if len(md) == 0 {
		return "none"
	}
	var pairs []string
	for _, key := range slices.Sorted(maps.Keys(md)) {
		pairs = append(pairs, fmt.Sprintf("%s=%q", key, md[key]))
	}
	return strings.Join(pairs, " ")
}

// showStatus writes a call's end out, with its details.
func showStatus(err error) string {
	st := status.Convert(err)
	var details strings.Builder
	for _, d := range st.Proto().GetDetails() {
		fmt.Fprintf(&details, " %s=%q", d.GetTypeUrl(), d.GetValue())
	}
	return fmt.Sprintf("%v %q%s", st.Code(), st.Message(), details.String())
}
