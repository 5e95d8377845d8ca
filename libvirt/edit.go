package libvirt

import (
	"fmt"
	"path/filepath"
	"strings"
	"unicode/utf8"
)

// edit changes a domain's XML so that its console is what it should be; file is
// as in [Client.SetConsole]. It returns doc itself if nothing has to change.
// Nothing outside of the console's <serial> is touched.
func edit(doc string, console Console, file string) (string, error) {
	if err := check(console, file); err != nil {
		return "", err
	}
	domain, err := parse(doc)
	if err != nil {
		return "", err
	}
	port, err := consolePort(domain)
	if err != nil {
		return "", err
	}
	d := &draft{doc: doc}
	switch typ := typeOf(port); {
	case console == PTY && typ == typePTY:
		if log := port.first("log"); log != nil && within(log.attr("file"), file) {
			d.remove(port, "log")
		}
	case console == PTY:
		retype(d, port, typePTY)
		d.remove(port, "log")
	case console == Both:
		if typ != typePTY {
			retype(d, port, typePTY)
		}
		logTo(d, port, file)
	case typ != typeFile: // to File
		retype(d, port, typeFile)
		d.remove(port, "log")
		d.insert(port, "<source "+attrText("path", file)+" append='on'/>")
	}
	return d.String(), nil
}

// check rejects a place for a console that cannot be.
func check(console Console, file string) error {
	switch console {
	case PTY:
		return nil
	case File, Both:
	default:
		return fmt.Errorf("console %q: want %q, %q or %q", console, File, PTY, Both)
	}
	if !filepath.IsAbs(file) {
		return fmt.Errorf("console's file %q: want an absolute path", file)
	}
	// libvirt writes a line end into its XML as it is, and reads a space.
	if !utf8.ValidString(file) || strings.ContainsFunc(file, unfit) {
		return fmt.Errorf("console's file %q: want a path of printable UTF-8", file)
	}
	return nil
}

// unfit tells whether XML, or libvirt's XML, cannot hold a character.
func unfit(r rune) bool { return r < ' ' || r == '\uFFFE' || r == '\uFFFF' }

// retype gives the port another type, which leaves it without a source.
func retype(d *draft, port *element, typ string) {
	d.set(port, "type", typ)
	d.remove(port, "source")
	d.remove(port, "protocol")
}

// logTo has libvirt log the port to a file, which it appends to.
func logTo(d *draft, port *element, file string) {
	log := port.first("log")
	if log == nil {
		d.insert(port, "<log "+attrText("file", file)+" append='on'/>")
		return
	}
	d.set(log, "file", file)
	d.set(log, "append", "on")
}
