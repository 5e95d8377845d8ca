package guest

import (
	"bytes"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// KernelParameters make the cloud kernel boot fast and silently under software
// emulation. loglevel=1 and no_timer_check matter on a busy machine: without
// them the kernel puts complaints about its timer between the guest's lines.
const KernelParameters = "console=ttyS0 quiet loglevel=1 nokaslr mitigations=off " +
	"no_timer_check tsc=reliable nowatchdog rcupdate.rcu_cpu_stall_suppress=1 panic=-1"

// What follows the boot on the console. Neither ends in a newline. The shell
// asks for the cursor's position (ESC [6n) right after its prompt.
const (
	Prompt      = "vm# "
	LoginPrompt = "vm login: "
)

// DefaultMarker stands in the lines of a Boot that names none.
const DefaultMarker = "vm"

// FloodLineLen is the length of a flood's lines as the guest writes them, with
// the newline. The serial port makes it one more.
const FloodLineLen = 100

// Boot chooses what a guest prints. The zero value prints a first line and the
// ready line, then gives a shell.
type Boot struct {
	Marker   string        // a word in every line: letters, digits, dots and dashes, at most 32
	Lines    int           // how many numbered lines to print
	Known    bool          // the awkward lines: see [KnownHead]
	FloodMB  int           // megabytes of numbered lines, see [Boot.FloodLine]
	Tick     time.Duration // a line every so often, for ever, after the ready line
	PowerOff bool          // power off after the ready line, else give a shell
	Login    bool          // print LoginPrompt and wait for Enter before the shell
}

var markerPattern = regexp.MustCompile(`^[A-Za-z0-9.-]{1,32}$`)

// Validate says whether the guest can do what b asks for.
func (b Boot) Validate() error {
	switch {
	case !markerPattern.MatchString(b.marker()):
		return fmt.Errorf("guest: marker %q: want %v", b.Marker, markerPattern)
	case b.Lines < 0 || b.FloodMB < 0 || b.Tick < 0:
		return fmt.Errorf("guest: negative number in %+v", b)
	}
	return nil
}

// Args returns the kernel parameters that ask for b, without KernelParameters:
// the form in which a container's args carry them.
func (b Boot) Args() []string {
	args := []string{"lp.marker=" + b.marker()}
	number := func(name string, n int) {
		if n > 0 {
			args = append(args, "lp."+name+"="+strconv.Itoa(n))
		}
	}
	flag := func(name string, on bool) {
		if on {
			args = append(args, "lp."+name+"=1")
		}
	}
	number("lines", b.Lines)
	flag("known", b.Known)
	number("flood", b.FloodMB)
	if b.Tick > 0 {
		args = append(args, "lp.tick="+strconv.FormatFloat(b.Tick.Seconds(), 'f', -1, 64))
	}
	flag("poweroff", b.PowerOff)
	flag("login", b.Login)
	return args
}

// Cmdline returns the whole kernel command line.
func (b Boot) Cmdline() string {
	return Cmdline(b.Args())
}

// Cmdline returns the kernel command line with args added.
func Cmdline(args []string) string {
	return strings.Join(append([]string{KernelParameters}, args...), " ")
}

// ReadyLine returns the line that ends the boot, without its newline.
func (b Boot) ReadyLine() string { return "LP-READY " + b.marker() }

// Line returns numbered line i, which counts from 1.
func (b Boot) Line(i int) string { return fmt.Sprintf("LP-LINE %s %d", b.marker(), i) }

// FloodLine returns line i of the flood, which counts from 1: a lost, doubled
// or torn one is seen by its number and its length.
func (b Boot) FloodLine(i int) string {
	line := fmt.Sprintf("LP-FLOOD %s %08d ", b.marker(), i)
	return line + strings.Repeat("=", FloodLineLen-1-len(line))
}

// FloodLines returns how many lines the flood has.
func (b Boot) FloodLines() int { return b.FloodMB * 1_000_000 / FloodLineLen }

// TickLine returns the i-th tick, which counts from 1.
func (b Boot) TickLine(i int) string { return fmt.Sprintf("LP-TICK %s %d", b.marker(), i) }

// Console returns the bytes that leave the serial port from power-on up to and
// including the ready line. Of a guest that powers off this is all.
func (b Boot) Console() []byte {
	return bytes.ReplaceAll(b.written(), []byte("\n"), []byte("\r\n"))
}

// Text returns the lines of Console as a log must show them: split at each
// newline, without it and without the one "\r" that the terminal put in front.
func (b Boot) Text() []string {
	return strings.Split(strings.TrimSuffix(string(b.written()), "\n"), "\n")
}

// written returns what the guest's programs write, up to the ready line.
func (b Boot) written() []byte {
	var out bytes.Buffer
	fmt.Fprintf(&out, "LP-BEGIN %s\n", b.marker())
	for i := 1; i <= b.Lines; i++ {
		fmt.Fprintln(&out, b.Line(i))
	}
	if b.Known {
		out.WriteString(KnownHead() + KnownTail())
	}
	for i := 1; i <= b.FloodLines(); i++ {
		fmt.Fprintln(&out, b.FloodLine(i))
	}
	fmt.Fprintln(&out, b.ReadyLine())
	return out.Bytes()
}

func (b Boot) marker() string {
	if b.Marker == "" {
		return DefaultMarker
	}
	return b.Marker
}
