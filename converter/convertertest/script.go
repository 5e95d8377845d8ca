// Package convertertest reads the scripts of converter/testdata/convert, which
// say what raw console bytes become, for whoever wants to check a part of the
// way of those bytes: the converter its lines, others what a reader of the
// container log sees.
package convertertest

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/cri-logproxy/cri-logproxy/converter"
)

// Script is raw console bytes and the lines that they must become. In its file,
// one command a line:
//
//	max N, whole-runes   options, at the start
//	raw "…"              console bytes, Go-quoted
//	zeros N              that many NUL bytes
//	idle, end            the flushes
//	want P|F "…"         the next line that must have come out
//	hole N               the same for a hole
type Script struct {
	Name     string
	Splitter converter.Splitter
	Steps    []Step
	Want     []converter.Line
}

// Step gives the splitter more bytes, then flushes.
type Step struct {
	Raw   []byte
	Flush converter.Flush
}

// ReadScripts reads all scripts of a directory.
func ReadScripts(t testing.TB, dir string) []Script {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*.txt"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no scripts in %s: %v", dir, err)
	}
	scripts := make([]Script, 0, len(paths))
	for _, path := range paths {
		scripts = append(scripts, readScript(t, path))
	}
	return scripts
}

func readScript(t testing.TB, path string) Script {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s := Script{
		Name:     strings.TrimSuffix(filepath.Base(path), ".txt"),
		Splitter: converter.Splitter{Max: converter.DefaultMaxLine},
	}
	in := bufio.NewScanner(f)
	for n := 1; in.Scan(); n++ {
		if err := s.add(in.Text()); err != nil {
			t.Fatalf("%s:%d: %q: %v", path, n, in.Text(), err)
		}
	}
	if err := in.Err(); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return s
}

// add takes one command into the script.
func (s *Script) add(command string) (err error) {
	verb, arg, _ := strings.Cut(command, " ")
	switch verb {
	case "", "#":
	case "max":
		s.Splitter.Max, err = strconv.Atoi(arg)
	case "whole-runes":
		s.Splitter.WholeRunes = true
	case "raw":
		var text string
		text, err = strconv.Unquote(arg)
		s.Steps = append(s.Steps, Step{Raw: []byte(text)})
	case "zeros":
		var n int
		n, err = strconv.Atoi(arg)
		s.Steps = append(s.Steps, Step{Raw: make([]byte, n)})
	case "idle":
		s.Steps = append(s.Steps, Step{Flush: converter.FlushIdle})
	case "end":
		s.Steps = append(s.Steps, Step{Flush: converter.FlushEnd})
	case "hole":
		var n int64
		n, err = strconv.ParseInt(arg, 10, 64)
		s.Want = append(s.Want, converter.Line{Hole: n})
	case "want":
		tag, content, _ := strings.Cut(arg, " ")
		l := converter.Line{Partial: tag == "P"}
		l.Content, err = wantedContent(content)
		s.Want = append(s.Want, l)
	default:
		err = fmt.Errorf("unknown command")
	}
	return err
}

func wantedContent(arg string) ([]byte, error) {
	if zeros, ok := strings.CutPrefix(arg, "zeros "); ok {
		n, err := strconv.Atoi(zeros)
		return make([]byte, n), err
	}
	text, err := strconv.Unquote(arg)
	return []byte(text), err
}

// Lines runs the script with its raw bytes presented in pieces of at most chunk.
func (s Script) Lines(chunk int) []converter.Line {
	sp := s.Splitter
	var pending []byte
	var got []converter.Line
	take := func(flush converter.Flush) {
		for {
			line, n, ok := sp.Next(pending, flush)
			line.Content = bytes.Clone(line.Content)
			pending = pending[n:]
			if !ok {
				return
			}
			got = append(got, line)
		}
	}
	for _, step := range s.Steps {
		for raw := step.Raw; len(raw) > 0; {
			n := min(chunk, len(raw))
			pending = append(pending, raw[:n]...)
			raw = raw[n:]
			take(converter.FlushNone)
		}
		if step.Flush != converter.FlushNone {
			take(step.Flush)
		}
	}
	return got
}

// Describe shows lines as the scripts have them.
func Describe(lines []converter.Line) string {
	var b strings.Builder
	for _, l := range lines {
		switch {
		case l.Hole > 0:
			fmt.Fprintf(&b, "hole %d\n", l.Hole)
		case l.Partial:
			fmt.Fprintf(&b, "want P %q\n", l.Content)
		default:
			fmt.Fprintf(&b, "want F %q\n", l.Content)
		}
	}
	return b.String()
}
