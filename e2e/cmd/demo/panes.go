package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"golang.org/x/term"
)

// The least terminal that two panes fit on.
const (
	minWidth  = 60
	minHeight = 14
)

// paneLines is how many lines a pane has at most.
const paneLines = 20

// view shows steps, and next to each other two texts that grow at the same time.
type view interface {
	io.Writer // for steps: whole lines
	// column is where text i, 0 or 1, is written.
	column(i int) io.Writer
	// close ends the texts. Steps that come then are below them.
	close()
}

// newView is two panes on a terminal, else lines with their origin.
func newView(out io.Writer, screen *os.File, titles [2]string) view {
	if width, height := size(screen); !term.IsTerminal(int(screen.Fd())) || os.Getenv("TERM") == "dumb" || width < minWidth || height < minHeight {
		return newOrigins(out, titles)
	}
	return newPanes(out, screen, titles)
}

// size of a terminal; a usual one where it does not say.
func size(screen *os.File) (width, height int) {
	width, height, err := term.GetSize(int(screen.Fd()))
	if err != nil || width == 0 || height == 0 {
		return 80, 24
	}
	return width, height
}

// panes shows two texts side by side at the bottom of a terminal; steps go above
// them. Each change draws them again. All that it asks of the terminal is to move
// the cursor up and to erase, so there is nothing to put back.
type panes struct {
	out    io.Writer
	screen *os.File
	titles [2]string

	mu            sync.Mutex
	texts         [2]text
	ended         [2][]string // the last lines that have ended
	width, height int         // of the terminal, at the last drawing
	drawn         int         // how many lines up that began
	closed        bool
}

func newPanes(out io.Writer, screen *os.File, titles [2]string) *panes {
	p := &panes{out: out, screen: screen, titles: titles}
	for i := range p.texts {
		p.texts[i].ended = func(line string) {
			all := append(p.ended[i], line)
			p.ended[i] = all[max(0, len(all)-paneLines):]
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = p.draw(nil) // a broken output shows itself at the next line
	return p
}

func (p *panes) Write(step []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return p.out.Write(step)
	}
	if err := p.draw(step); err != nil {
		return 0, err
	}
	return len(step), nil
}

func (p *panes) column(i int) io.Writer {
	return writerFunc(func(b []byte) error {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.texts[i].write(b)
		if p.closed {
			return nil
		}
		return p.draw(nil)
	})
}

func (p *panes) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		_, _ = io.WriteString(p.out, "\r\x1b[K") // a ^C may stand there
	}
	p.closed = true
}

// draw draws the panes over what was drawn before, with above on top of them. In
// one write, or it flickers.
func (p *panes) draw(above []byte) error {
	var b bytes.Buffer
	width, height := size(p.screen)
	if width != p.width || height != p.height {
		// Nobody knows where the old ones are: begin anew.
		p.width, p.height, p.drawn = width, height, 0
	}
	b.WriteByte('\r')
	if p.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", p.drawn)
	}
	if len(above) > 0 {
		b.WriteString("\x1b[J")
		b.Write(above)
	}
	lines := max(1, min(paneLines, height-10)) // room for some steps
	left := (width - 3) / 2
	right := width - 3 - left
	row := func(l, between, r string) { fmt.Fprintf(&b, "%s%s%s\x1b[K\r\n", l, between, r) }
	row(headed(p.titles[0], left+1), "┬", headed(p.titles[1], right+1))
	l, r := p.last(0, lines), p.last(1, lines)
	for i := range lines {
		row(fmt.Sprintf("%-*.*s", left, left, l[i]), " │ ", fmt.Sprintf("%.*s", right, r[i]))
	}
	row(strings.Repeat("─", left+1), "┴", strings.Repeat("─", right+1))
	p.drawn = lines + 2
	_, err := p.out.Write(b.Bytes())
	return err
}

// headed is a rule with a title in it.
func headed(title string, width int) string {
	rule := "── " + title + " "
	return rule + strings.Repeat("─", max(0, width-len([]rune(rule))))
}

// last returns the last lines of a text: n, of which the latter may be empty.
func (p *panes) last(i, n int) []string {
	all := append(p.ended[i][:len(p.ended[i]):len(p.ended[i])], string(p.texts[i].open))
	all = all[max(0, len(all)-n):]
	return append(all, make([]string, n-len(all))...)
}
