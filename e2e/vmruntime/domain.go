package vmruntime

import (
	_ "embed"
	"encoding/xml"
	"fmt"
	"strings"
	"text/template"

	"github.com/cri-logproxy/cri-logproxy/e2e/guest"
)

//go:embed domain.xml
var domainSource string

var domainTemplate = template.Must(template.New("domain.xml").
	Funcs(template.FuncMap{"xml": escape}).
	Parse(domainSource))

// domain describes a virtual machine to libvirt.
type domain struct {
	Name    string
	UUID    string
	Guest   guest.Guest
	Cmdline string
	Disk    string // image of the root disk; empty: none
	RawLog  string // file behind the serial port; empty: a pty
}

func (d domain) xml() (string, error) {
	var out strings.Builder
	if err := domainTemplate.Execute(&out, d); err != nil {
		return "", fmt.Errorf("domain %s: %w", d.Name, err)
	}
	return out.String(), nil
}

func escape(s string) (string, error) {
	var out strings.Builder
	err := xml.EscapeText(&out, []byte(s))
	return out.String(), err
}
