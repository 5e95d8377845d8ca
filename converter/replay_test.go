package converter

import (
	"bytes"
	"testing"
)

// FuzzReplay checks that the records of any part of a conversion lead back to
// the place in the raw log where the rest of it begins: going on from there
// gives the same text as not having stopped.
func FuzzReplay(f *testing.F) {
	f.Add([]byte("one\r\ntwo\nlogin: root\r\nfour"), []byte{3, 9, 200, 40, 7}, uint8(3), uint8(16), false)
	f.Add(append(append([]byte("a\r"), make([]byte, 3000)...), "\xff\xe6\x97\xa5b\nc"...), []byte{1, 2, 130, 255, 66}, uint8(5), uint8(4), true)
	f.Add([]byte("\n\n\r\n\x00\x00x\r\r\n"), []byte{129, 65, 1, 1, 1}, uint8(2), uint8(8), true)
	f.Fuzz(func(t *testing.T, raw, steps []byte, stop, maxLine uint8, json bool) {
		if len(raw) > 1<<13 || len(steps) > 200 {
			return
		}
		format := CRI
		if json {
			format = DockerJSON
		}
		e := Encoder{Format: format}
		e.SetTime(testTime)
		newSplitter := func() *Splitter { return &Splitter{Max: int(maxLine) + 4, WholeRunes: json} }

		// Convert in pieces: each step says how much more is there, and whether
		// an idle flush or a reopen comes then. Stop after some records.
		s := newSplitter()
		var log []byte
		at, records := 0, 0
		for _, step := range steps {
			end := min(len(raw), at+int(step&63)*16)
			flush := FlushNone
			if step&64 != 0 {
				flush = FlushIdle
			}
			for records < int(stop) {
				line, n, ok := s.Next(raw[at:end], flush)
				at += n
				if !ok {
					break
				}
				log = e.Append(log, line)
				records++
			}
			if step&128 != 0 && records < int(stop) && s.Break() {
				log = e.Append(log, Line{})
				records++
			}
		}

		r := newReplayer(format, SplitState{}, bytes.NewReader(raw))
		if err := r.run(bytes.NewReader(log)); err != nil {
			t.Fatalf("%v: after %d of %d bytes of %q", err, r.matched, len(log), log)
		}
		if r.matched != int64(len(log)) {
			t.Fatalf("matched %d of %d bytes", r.matched, len(log))
		}
		// The rest, from where replay says and from where the splitter was.
		rest := func(s *Splitter, raw []byte) (text []byte) {
			for {
				line, n, ok := s.Next(raw, FlushEnd)
				raw = raw[n:]
				if !ok {
					return text
				}
				text = e.Append(text, line)
			}
		}
		again := newSplitter()
		again.SplitState = r.split
		want, got := rest(s, raw[at:]), rest(again, raw[r.consumed:])
		if !bytes.Equal(got, want) {
			t.Fatalf("the log %q\ngoes on as %q (byte %d, %+v)\nand not as %q (byte %d)", log, got, r.consumed, r.split, want, at)
		}
	})
}
