package libvirt

import (
	"cmp"
	"encoding/xml"
	"slices"
	"strings"
)

// draft is a document with changes that are still to be made. Positions are
// those of the document as it is.
type draft struct {
	doc  string
	cuts []cut
}

// cut replaces doc[from:to].
type cut struct {
	from, to int
	text     string
}

// String returns the document with the changes; the document itself if there
// are none.
func (d *draft) String() string {
	if len(d.cuts) == 0 {
		return d.doc
	}
	// At one position what is inserted comes before what is replaced.
	slices.SortStableFunc(d.cuts, func(a, b cut) int {
		return cmp.Or(cmp.Compare(a.from, b.from), cmp.Compare(a.to, b.to))
	})
	var out strings.Builder
	done := 0
	for _, c := range d.cuts {
		out.WriteString(d.doc[done:c.from])
		out.WriteString(c.text)
		done = c.to
	}
	out.WriteString(d.doc[done:])
	return out.String()
}

// set gives an attribute a value.
func (d *draft) set(e *element, name, value string) {
	if from, to, ok := attrSpan(d.doc[e.start:e.inner], name); !ok {
		at := e.start + len("<"+e.tag.Local)
		d.cuts = append(d.cuts, cut{at, at, " " + attrText(name, value)})
	} else if e.attr(name) != value {
		d.cuts = append(d.cuts, cut{e.start + from, e.start + to, escape(value)})
	}
}

// insert puts text before all content of e. It may be called once for an e.
func (d *draft) insert(e *element, text string) {
	if e.inner == e.end { // self-closing
		d.cuts = append(d.cuts, cut{e.inner - len("/>"), e.inner, ">" + text + "</" + e.tag.Local + ">"})
		return
	}
	d.cuts = append(d.cuts, cut{e.inner, e.inner, text})
}

// remove removes the children of that name, each with the space before it.
func (d *draft) remove(e *element, name string) {
	for _, child := range e.all(name) {
		before := strings.TrimRight(d.doc[:child.start], " \t\r\n")
		d.cuts = append(d.cuts, cut{len(before), child.end, ""})
	}
}

// attrSpan finds the value, without its quotes, of an attribute in a
// well-formed start tag.
func attrSpan(tag, name string) (from, to int, ok bool) {
	at := strings.IndexAny(tag, " \t\r\n")
	for at >= 0 {
		equals := strings.IndexByte(tag[at:], '=')
		if equals < 0 {
			break
		}
		equals += at
		from = equals + strings.IndexAny(tag[equals:], `'"`) + 1
		to = from + strings.IndexByte(tag[from:], tag[from-1])
		if strings.TrimSpace(tag[at:equals]) == name {
			return from, to, true
		}
		at = to + 1
	}
	return 0, 0, false
}

// attrText returns an attribute as it is written in a tag.
func attrText(name, value string) string {
	return name + "='" + escape(value) + "'"
}

func escape(value string) string {
	var out strings.Builder
	_ = xml.EscapeText(&out, []byte(value)) // a Builder takes everything
	return out.String()
}
