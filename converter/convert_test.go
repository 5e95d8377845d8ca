package converter_test

import (
	"bytes"
	"testing"

	"github.com/cri-logproxy/cri-logproxy/converter"
	"github.com/cri-logproxy/cri-logproxy/converter/convertertest"
)

func TestConvertScripts(t *testing.T) {
	for _, s := range convertertest.ReadScripts(t, "testdata/convert") {
		t.Run(s.Name, func(t *testing.T) {
			want := convertertest.Describe(s.Want)
			for _, chunk := range []int{1 << 20, 1, 2, 3, 7, 1023} {
				if got := convertertest.Describe(s.Lines(chunk)); got != want {
					t.Errorf("in pieces of %d bytes:\n%swant:\n%s", chunk, got, want)
				}
			}
		})
	}
}

// FuzzSplitter checks that lines do not depend on the reads and that they carry
// every byte.
func FuzzSplitter(f *testing.F) {
	f.Add([]byte("a\r\nb\rc\n\x00d\xe6\x97\xa5"), uint8(3), uint16(5), false)
	f.Add(make([]byte, 3000), uint8(7), uint16(100), true)
	f.Add(append([]byte("x\r"), make([]byte, 1024)...), uint8(1), uint16(1), false)
	f.Fuzz(func(t *testing.T, raw []byte, chunk uint8, maxLine uint16, wholeRunes bool) {
		if len(raw) > 1<<14 {
			return
		}
		script := convertertest.Script{
			Splitter: converter.Splitter{Max: int(maxLine) + 4, WholeRunes: wholeRunes},
			Steps:    []convertertest.Step{{Raw: raw}, {Flush: converter.FlushEnd}},
		}
		whole := script.Lines(1 << 20)
		wholeText := convertertest.Describe(whole)
		if cut := convertertest.Describe(script.Lines(int(chunk) + 1)); cut != wholeText {
			t.Fatalf("in pieces:\n%swhole:\n%s", cut, wholeText)
		}
		// Walk the raw bytes along the lines.
		rest := raw
		for i, l := range whole {
			if l.Hole > 0 {
				nuls := len(rest) - len(bytes.TrimLeft(rest, "\x00"))
				if l.Hole < converter.MinHole || nuls != int(l.Hole) {
					t.Fatalf("line %d is a hole of %d bytes before %q", i, l.Hole, rest)
				}
				rest = rest[l.Hole:]
				continue
			}
			if len(l.Content) > int(maxLine)+4 {
				t.Fatalf("line %d has %d bytes", i, len(l.Content))
			}
			if !bytes.HasPrefix(rest, l.Content) {
				t.Fatalf("line %d is %q before %q", i, l.Content, rest)
			}
			rest = rest[len(l.Content):]
			if l.Partial {
				continue
			}
			switch {
			case bytes.HasPrefix(rest, []byte("\n")):
				rest = rest[1:]
			case bytes.HasPrefix(rest, []byte("\r\n")):
				rest = rest[2:]
			case bytes.HasPrefix(rest, []byte{0}): // a hole ended it
			default:
				t.Fatalf("line %d is full before %q", i, rest)
			}
		}
		if len(rest) > 0 {
			t.Fatalf("%q never came out", rest)
		}
	})
}
