package libvirt

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
)

// element is an element of an XML document and where it is in there:
//
//	<serial type='pty'> ... </serial>
//	^start             ^inner        ^end
//
// A self-closing one has inner == end.
type element struct {
	tag      xml.Name // as written: Space is the prefix
	foreign  bool     // it has a default namespace, and so is not libvirt's
	attrs    []xml.Attr
	text     []byte // the character data that is directly in it
	children []*element

	start, inner, end int
}

// parse reads a domain's XML. It returns the <domain>.
func parse(doc string) (*element, error) {
	root, err := tree(doc)
	if err == nil && !root.named("domain") {
		err = fmt.Errorf("want <domain>, got <%s>", root.tag.Local)
	}
	if err != nil {
		return nil, fmt.Errorf("the domain's XML cannot be read: %w", err)
	}
	return root, nil
}

// tree reads a document. It asks for no more order than it needs to find
// elements: libvirt has written the document.
func tree(doc string) (*element, error) {
	top := &element{} // of the document: it has no tag
	open := []*element{top}
	decoder := xml.NewDecoder(strings.NewReader(doc))
	for {
		before := int(decoder.InputOffset())
		token, err := decoder.RawToken()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		current := open[len(open)-1]
		after := int(decoder.InputOffset())
		switch t := token.(type) {
		case xml.StartElement:
			e := &element{tag: t.Name, attrs: t.Attr, start: before, inner: after}
			e.foreign = e.attr("xmlns") != ""
			current.children = append(current.children, e)
			open = append(open, e)
		case xml.EndElement:
			if current == top || current.tag != t.Name {
				return nil, fmt.Errorf("</%s> at byte %d ends nothing", t.Name.Local, before)
			}
			current.end = after
			open = open[:len(open)-1]
		case xml.CharData:
			current.text = append(current.text, t...)
		}
	}
	if len(open) > 1 {
		return nil, fmt.Errorf("<%s> has no end", open[len(open)-1].tag.Local)
	}
	if len(top.children) != 1 {
		return nil, errors.New("not one document")
	}
	return top.children[0], nil
}

// named tells whether e is libvirt's own element of that name.
func (e *element) named(name string) bool {
	return e.tag.Space == "" && e.tag.Local == name && !e.foreign
}

// all returns the children of that name.
func (e *element) all(name string) []*element {
	var found []*element
	for _, child := range e.children {
		if child.named(name) {
			found = append(found, child)
		}
	}
	return found
}

// first returns the first child of that name, nil if there is none.
func (e *element) first(name string) *element {
	if found := e.all(name); len(found) > 0 {
		return found[0]
	}
	return nil
}

// attr returns an attribute's value, "" if there is none.
func (e *element) attr(name string) string {
	for _, a := range e.attrs {
		if a.Name.Space == "" && a.Name.Local == name {
			return a.Value
		}
	}
	return ""
}
