package libvirt

import (
	"errors"
	"path/filepath"
)

// Console says where a VM's console goes.
type Console string

// The places of a console.
const (
	File Console = "file" // to a file only
	PTY  Console = "pty"  // to a pty only: virsh console
	Both Console = "both" // to a pty, which libvirt logs to a file
)

// Serial is the serial port that is a domain's console: the one with target
// port 0, else the first.
type Serial struct {
	Domain  string // the domain's name
	Active  bool   // the VM runs, and this is the port that it runs with
	Type    string // libvirt's type of the port: "file", "pty", "unix", ...
	Path    string // type file: the file; type pty, while the VM runs: the device; else ""
	Log     string // the file of its <log>; "" without one
	Appends bool   // the file keeps its content when the VM starts (append='on')
}

// File returns the file that holds the console, as libvirtd sees it; "" if
// none does.
func (s Serial) File() string {
	if s.Type == typeFile {
		return s.Path
	}
	return s.Log
}

// is tells whether the console is where SetConsole shall put it.
func (s Serial) is(console Console, file string) bool {
	switch console {
	case File:
		return s.Type == typeFile
	case PTY:
		return s.Type == typePTY && !within(s.Log, file)
	default:
		return s.Type == typePTY && s.Log == file && s.Appends
	}
}

// Types of a serial port that are treated in their own way.
const (
	typeFile = "file"
	typePTY  = "pty"
)

// parseSerial finds the console's serial port in a domain's XML.
func parseSerial(doc string) (Serial, error) {
	domain, err := parse(doc)
	if err != nil {
		return Serial{}, err
	}
	port, err := consolePort(domain)
	if err != nil {
		return Serial{}, err
	}
	s := Serial{Type: typeOf(port), Active: domain.attr("id") != ""}
	if name := domain.first("name"); name != nil {
		s.Domain = string(name.text)
	}
	if log := port.first("log"); log != nil {
		s.Log, s.Appends = log.attr("file"), log.attr("append") == "on"
	}
	source := port.first("source")
	switch {
	case s.Type == typeFile:
		s.Appends = false // a <log> is then not the file in question
		if source != nil {
			s.Path, s.Appends = source.attr("path"), source.attr("append") == "on"
		}
	case s.Type == typePTY && s.Active && source != nil:
		s.Path = source.attr("path")
	}
	return s, nil
}

// consolePort returns the <serial> that is the domain's console.
//
// The domain's first <console> says the same again, and is ignored: libvirt
// itself makes it anew from the first <serial> whenever a domain is defined.
func consolePort(domain *element) (*element, error) {
	var found *element
	for _, devices := range domain.all("devices") {
		for _, serial := range devices.all("serial") {
			if target := serial.first("target"); target != nil && target.attr("port") == "0" {
				return serial, nil
			}
			if found == nil {
				found = serial
			}
		}
	}
	if found == nil {
		return nil, errors.New("the domain has no serial port, so it has no console to log: add <serial type='pty'/> to its devices")
	}
	return found, nil
}

// typeOf returns the type of a <serial>; libvirt takes one without for a pty.
func typeOf(serial *element) string {
	if t := serial.attr("type"); t != "" {
		return t
	}
	return typePTY
}

// within tells whether a file is in the tree of a directory. Nothing is in "".
func within(file, dir string) bool {
	rel, err := filepath.Rel(dir, file)
	return err == nil && file != "" && dir != "" && rel != "." && filepath.IsLocal(rel)
}
