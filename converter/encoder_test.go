package converter

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"
)

var testTime = time.Date(2026, 11, 23, 9, 8, 7, 60_000_000, time.FixedZone("", 3600))

func encode(f Format, lines ...Line) []byte {
	e := Encoder{Format: f}
	e.SetTime(testTime)
	var b []byte
	for _, l := range lines {
		b = e.Append(b, l)
	}
	return b
}

func TestEncoderRecords(t *testing.T) {
	lines := []Line{
		{Content: []byte("login: "), Partial: true},
		{Content: []byte("a\x00\"\\\t\xff")},
		{},
		{Hole: 4096},
	}
	for format, want := range map[Format]string{
		CRI: "2026-11-23T08:08:07.060000000Z stdout P login: \n" +
			"2026-11-23T08:08:07.060000000Z stdout F a\x00\"\\\t\xff\n" +
			"2026-11-23T08:08:07.060000000Z stdout F \n" +
			"2026-11-23T08:08:07.060000000Z stderr F [cri-logproxy] skipped 4096 NUL bytes: a hole in the raw log\n",
		DockerJSON: `{"log":"login: ","stream":"stdout","time":"2026-11-23T08:08:07.060000000Z"}` + "\n" +
			`{"log":"a\u0000\"\\\t\ufffd\n","stream":"stdout","time":"2026-11-23T08:08:07.060000000Z"}` + "\n" +
			`{"log":"\n","stream":"stdout","time":"2026-11-23T08:08:07.060000000Z"}` + "\n" +
			`{"log":"[cri-logproxy] skipped 4096 NUL bytes: a hole in the raw log\n","stream":"stderr","time":"2026-11-23T08:08:07.060000000Z"}` + "\n",
	} {
		if got := string(encode(format, lines...)); got != want {
			t.Errorf("%v:\n%swant:\n%s", format, got, want)
		}
	}
}

func TestParseFormat(t *testing.T) {
	for _, f := range []Format{CRI, DockerJSON} {
		if got, err := ParseFormat(f.String()); got != f || err != nil {
			t.Errorf("ParseFormat(%q) = %v, %v", f, got, err)
		}
	}
	if _, err := ParseFormat("docker"); err == nil || !strings.Contains(err.Error(), "cri or json") {
		t.Errorf("ParseFormat(docker): %v", err)
	}
}

// FuzzEncoder checks that records of either format carry the content, as
// encoding/json and our own decoder read it.
func FuzzEncoder(f *testing.F) {
	f.Add([]byte("plain"), false)
	f.Add([]byte("\x00\x1f\"\\\u2028\u2029\x7f\xff\xed\xa0\x80日\xe6"), true)
	f.Fuzz(func(t *testing.T, content []byte, partial bool) {
		if bytes.IndexByte(content, '\n') >= 0 {
			return
		}
		line := Line{Content: content, Partial: partial}
		for _, format := range []Format{CRI, DockerJSON} {
			b := encode(format, line)
			if n := bytes.IndexByte(b, '\n'); n != len(b)-1 {
				t.Fatalf("%v: %q is not one line", format, b)
			}
			rec, err := format.decodeRecord(b[:len(b)-1])
			if err != nil {
				t.Fatalf("%v: %q: %v", format, b, err)
			}
			want := content
			if format == DockerJSON {
				j, err := json.Marshal(string(content))
				if err != nil {
					t.Fatal(err)
				}
				var s string
				if err := json.Unmarshal(j, &s); err != nil {
					t.Fatal(err)
				}
				want = []byte(s)
			}
			if !bytes.Equal(rec.content, want) || rec.partial != partial || rec.notice || !rec.time.Equal(testTime) {
				t.Fatalf("%v: %q came back as %+v", format, b, rec)
			}
			if n, ok := format.match(append(bytes.Clone(content), "more"...), rec.content); !ok || n != len(content) {
				t.Fatalf("%v: match(%q) = %d, %v", format, content, n, ok)
			}
		}
	})
}

// FuzzPlain checks that the short cut for plain lines takes the same way as the
// splitter and the encoder, and does take it.
func FuzzPlain(f *testing.F) {
	f.Add([]byte("one\r\ntwo\n\nlonger than the limit\n\x00nul\nrest"), false, uint8(10))
	f.Add([]byte("plain ascii text\n\"quoted\" \\ \x1b[0m \x7f žluť\n"), true, uint8(200))
	f.Add([]byte("a tab\t, a lone \r, \r\r\n\u2028 half a rune \xe6\x97\n"), false, uint8(200))
	f.Add([]byte(strings.Repeat("0123456789", 7)+"\r\n"+strings.Repeat("0123456789", 7)+"1\r\n"), false, uint8(70-4))
	end := strings.Repeat("~", block+1) // the short cut stops short of the end of its source
	f.Fuzz(func(t *testing.T, src []byte, open bool, maxLine uint8) {
		src = append(bytes.Clone(src), end...)
		for _, format := range []Format{CRI, DockerJSON} {
			e := Encoder{Format: format}
			e.SetTime(testTime)
			slow := Splitter{SplitState: SplitState{Open: open}, Max: int(maxLine) + 4}
			fast := slow
			got, n := e.appendPlain(make([]byte, 0, 2*recordRoom), src, &fast)
			var want []byte
			at := 0
			for at < n {
				line, k, ok := slow.Next(src[at:], FlushNone)
				if !ok {
					t.Fatalf("the splitter stops at %d, the short cut at %d", at, n)
				}
				want = e.Append(want, line)
				at += k
			}
			if at != n || !bytes.Equal(got, want) || fast.SplitState != slow.SplitState {
				t.Fatalf("%v: got %q %+v, want %q %+v", format, got, fast, want, slow)
			}
			if next := bytes.IndexByte(src[n:], '\n'); next >= 0 && next <= slow.Max && bytes.IndexByte(src[n:n+next], 0) < 0 && len(got) <= recordRoom {
				t.Fatalf("%v: the short cut stops at %q", format, src[n:n+next])
			}
		}
	})
}
