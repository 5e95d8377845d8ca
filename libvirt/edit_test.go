package libvirt

import (
	_ "embed"
	"strings"
	"testing"
)

// domainXML holds everything awkward around a SERIAL to be filled in.
//
//go:embed testdata/domain.xml
var domainXML string

// withSerial returns a domain with that console port.
func withSerial(serial string) string {
	return strings.Replace(domainXML, "\n    SERIAL\n", "\n    "+serial+"\n", 1)
}

// edits are console ports, what they shall become, and how.
var edits = []struct {
	name    string
	serial  string
	console Console
	file    string
	want    string // "" if nothing changes
}{
	{
		"pty to both",
		`<serial type='pty'><target type='isa-serial' port='0'/></serial>`, Both, "/logs/0.log",
		`<serial type='pty'><log file='/logs/0.log' append='on'/><target type='isa-serial' port='0'/></serial>`,
	}, {
		"pty to both, space kept",
		"<serial type='pty'>\n      <target port='0'/>\n\t<alias name='serial0'/>\r\n    </serial>", Both, "/l",
		"<serial type='pty'><log file='/l' append='on'/>\n      <target port='0'/>\n\t<alias name='serial0'/>\r\n    </serial>",
	}, {
		"pty to both, file name escaped",
		`<serial type='pty'><target port='0'/></serial>`, Both, `/a b/'x' "y" <z> & é.log`,
		`<serial type='pty'><log file='/a b/&#39;x&#39; &#34;y&#34; &lt;z&gt; &amp; é.log' append='on'/><target port='0'/></serial>`,
	}, {
		"both to both",
		`<serial type='pty'><log file='/l' append='on'/><target port='0'/></serial>`, Both, "/l", "",
	}, {
		"both to both, the same file written otherwise",
		`<serial type = "pty"><log append="on" file = "/a&#x26;&apos;b"></log><target port="0"/></serial>`, Both, "/a&'b", "",
	}, {
		"both to both, another file",
		`<serial type='pty'><target port='0'/><log append='on' file="/old"/></serial>`, Both, "/new",
		`<serial type='pty'><target port='0'/><log append='on' file="/new"/></serial>`,
	}, {
		"both to both, not appending",
		`<serial type='pty'><log append="off" file='/l' new='x'><a/></log><target port='0'/></serial>`, Both, "/l",
		`<serial type='pty'><log append="on" file='/l' new='x'><a/></log><target port='0'/></serial>`,
	}, {
		"both to both, append not said",
		`<serial type='pty'><log file='/l'/><target port='0'/></serial>`, Both, "/l",
		`<serial type='pty'><log append='on' file='/l'/><target port='0'/></serial>`,
	}, {
		"file to both",
		"<serial type='file'>\n  <source path='/f' append='on'/>\n  <target port='0'/>\n</serial>", Both, "/l",
		"<serial type='pty'><log file='/l' append='on'/>\n  <target port='0'/>\n</serial>",
	}, {
		"unix to both",
		`<serial type="unix"><source mode='connect' path='/u'><reconnect enabled='yes' timeout='1'/></source><target port='0'/></serial>`, Both, "/l",
		`<serial type="pty"><log file='/l' append='on'/><target port='0'/></serial>`,
	}, {
		"unix with a log to both",
		`<serial type='unix'><source mode='bind' path='/u'/><log file='/u.log'/><target port='0'/></serial>`, Both, "/l",
		`<serial type='pty'><log append='on' file='/l'/><target port='0'/></serial>`,
	}, {
		"udp to both: two sources",
		`<serial type='udp'><source mode='bind' host='a' service='1'/> <source mode='connect' host='b' service='2'/> <target port='0'/></serial>`, Both, "/l",
		`<serial type='pty'><log file='/l' append='on'/> <target port='0'/></serial>`,
	}, {
		"tcp to both",
		`<serial type='tcp'><source mode='bind' host='h' service='1' tls='no'/><protocol type='telnet'/><target port='0'/></serial>`, Both, "/l",
		`<serial type='pty'><log file='/l' append='on'/><target port='0'/></serial>`,
	}, {
		"null to both",
		`<serial type='null'><target port='0'/></serial>`, Both, "/l",
		`<serial type='pty'><log file='/l' append='on'/><target port='0'/></serial>`,
	}, {
		"file to file, whatever its file",
		`<serial type='file'><source path='/f'/><target port='0'/></serial>`, File, "/l", "",
	}, {
		"pty to file",
		`<serial type='pty'><source path='/dev/pts/3'/><target port='0'/></serial>`, File, "/l & k",
		`<serial type='file'><source path='/l &amp; k' append='on'/><target port='0'/></serial>`,
	}, {
		"both to file",
		"<serial type='pty'>\n  <log file='/old' append='on'/>\n  <target port='0'/></serial>", File, "/l",
		"<serial type='file'><source path='/l' append='on'/>\n  <target port='0'/></serial>",
	}, {
		"no type to file",
		`<serial ><target port='0'/></serial>`, File, "/l",
		`<serial type='file' ><source path='/l' append='on'/><target port='0'/></serial>`,
	}, {
		"unix to file",
		`<serial type='unix'><source mode='connect' path='/u'><reconnect enabled='yes' timeout='1'/></source><target port='0'/></serial>`, File, "/l",
		`<serial type='file'><source path='/l' append='on'/><target port='0'/></serial>`,
	}, {
		"unix with our log to file",
		"<serial type='unix'>\n  <source mode='bind' path='/u'/>\n  <log file='/l' append='on'/>\n  <target port='0'/>\n</serial>", File, "/l",
		"<serial type='file'><source path='/l' append='on'/>\n  <target port='0'/>\n</serial>",
	}, {
		"tcp to file",
		`<serial type='tcp'><source mode='bind' host='h' service='1' tls='no'/><protocol type='telnet'/><target port='0'/></serial>`, File, "/l",
		`<serial type='file'><source path='/l' append='on'/><target port='0'/></serial>`,
	}, {
		"null to file",
		`<serial type='null'><target port='0'/></serial>`, File, "/l",
		`<serial type='file'><source path='/l' append='on'/><target port='0'/></serial>`,
	}, {
		"pty to pty",
		`<serial type='pty'><target port='0'/></serial>`, PTY, "", "",
	}, {
		"pty with somebody's log to pty",
		`<serial type='pty'><log file='/somebody/l' append='on'/><target port='0'/></serial>`, PTY, "/ours", "",
	}, {
		"pty with a log to pty, no directory",
		`<serial type='pty'><log file='/somebody/l' append='on'/><target port='0'/></serial>`, PTY, "", "",
	}, {
		"pty with our log to pty",
		"<serial type='pty'>\n\t<log file='/ours/pod/l' append='on'/>\n\t<target port='0'/></serial>", PTY, "/ours/",
		"<serial type='pty'>\n\t<target port='0'/></serial>",
	}, {
		"pty with a log beside ours to pty",
		`<serial type='pty'><log file='/ours/../ours2/l'/><target port='0'/></serial>`, PTY, "/ours", "",
	}, {
		"file to pty",
		`<serial type='file'><source path='/f'><seclabel model='dac' relabel='no'/></source><log file='/l'/><target port='0'/></serial>`, PTY, "",
		`<serial type='pty'><target port='0'/></serial>`,
	}, {
		"unix to pty",
		`<serial  type  =  "unix"><source mode='bind' path='/u'/><target port='0'/></serial>`, PTY, "",
		`<serial  type  =  "pty"><target port='0'/></serial>`,
	}, {
		"attributes that look like others",
		`<serial x:type='unix' xtype='b' a="type='c'" type='null'><target port='0'/></serial>`, Both, "/l",
		`<serial x:type='unix' xtype='b' a="type='c'" type='pty'><log file='/l' append='on'/><target port='0'/></serial>`,
	}, {
		"elements that look like others",
		`<serial type='unix'><x:source/><!-- <source/> --><extra><source/><log file='/l'/></extra><source path='/u'/><target port='0'/></serial>`, Both, "/l",
		`<serial type='pty'><log file='/l' append='on'/><x:source/><!-- <source/> --><extra><source/><log file='/l'/></extra><target port='0'/></serial>`,
	},
}

func TestEdit(t *testing.T) {
	for _, test := range edits {
		t.Run(test.name, func(t *testing.T) {
			want := test.want
			if want == "" {
				want = test.serial
			}
			doc := withSerial(test.serial)
			got, err := edit(doc, test.console, test.file)
			if err != nil {
				t.Fatal(err)
			}
			if got != withSerial(want) {
				t.Fatalf("got  %s\nwant %s", got, withSerial(want))
			}
			if again, err := edit(got, test.console, test.file); err != nil || again != got {
				t.Errorf("edited again: %v\n%s", err, again)
			}
			if s, err := parseSerial(got); err != nil || !s.is(test.console, test.file) {
				t.Errorf("not what it should be: %+v, %v", s, err)
			}
		})
	}
}

// TestEditEverySerial edits the port of a domain that has no port 0, and a
// port that is empty.
func TestEditEverySerial(t *testing.T) {
	for serial, want := range map[string]string{
		`<serial type='pty'/>`: `<serial type='pty'><log file='/l' append='on'/></serial>`,
		`<serial/>`:            `<serial><log file='/l' append='on'/></serial>`,
		"<serial\n/>":          "<serial\n><log file='/l' append='on'/></serial>",
		`<serial></serial>`:    `<serial><log file='/l' append='on'/></serial>`,
		`<serial type='null'/><serial type='pty'><target port='1'/></serial>`: `<serial type='pty'><log file='/l' append='on'/></serial><serial type='pty'><target port='1'/></serial>`,
	} {
		frame := func(s string) string { return "<domain><devices>" + s + "</devices></domain>" }
		if got, err := edit(frame(serial), Both, "/l"); err != nil || got != frame(want) {
			t.Errorf("%s: %v\ngot  %s\nwant %s", serial, err, got, frame(want))
		}
	}
	// The attribute and the content of an empty element change at one place.
	got, err := edit("<domain><devices><serial/></devices></domain>", File, "/l")
	want := "<domain><devices><serial type='file'><source path='/l' append='on'/></serial></devices></domain>"
	if err != nil || got != want {
		t.Errorf("%v\ngot  %s\nwant %s", err, got, want)
	}
}

func TestEditRefuses(t *testing.T) {
	pty := withSerial(`<serial type='pty'><target port='0'/></serial>`)
	for _, test := range []struct {
		doc     string
		console Console
		file    string
		want    string
	}{
		{pty, "tty", "/l", `console "tty"`},
		{pty, Both, "", "absolute"},
		{pty, File, "rel/l", "absolute"},
		{pty, Both, "/a\nb", "printable"},
		{pty, Both, "/a\xffb", "printable"},
		{pty, Both, "/a\x00b", "printable"},
		{"", Both, "/l", "cannot be read"},
		{"<domain>", Both, "/l", "has no end"},
		{"</domain>", Both, "/l", "cannot be read"},
		{"<domain></devices></domain>", Both, "/l", "ends nothing"},
		{"<domain/><domain/>", Both, "/l", "not one document"},
		{"<domain a=1/>", Both, "/l", "cannot be read"},
		{"<network/>", Both, "/l", "want <domain>"},
		{"<domain xmlns='urn:x'/>", Both, "/l", "want <domain>"},
		{"<domain/>", Both, "/l", "no serial port"},
		{"<domain><devices><console type='pty'><target type='virtio'/></console></devices></domain>", Both, "/l", "no serial port"},
	} {
		if got, err := edit(test.doc, test.console, test.file); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%.60q, %q, %q: %q, %v", test.doc, test.console, test.file, got, err)
		}
	}
}

func TestParseSerial(t *testing.T) {
	const live = `<domain type='qemu' id='3'><name>a&lt;b<![CDATA[&c]]></name><devices>`
	const end = `</devices></domain>`
	for doc, want := range map[string]Serial{
		live + `<serial type='pty'><source path='/dev/pts/7'/><log file='/l' append='on'/><target port='0'/></serial>` + end: {Domain: "a<b&c", Active: true, Type: "pty", Path: "/dev/pts/7", Log: "/l", Appends: true},
		live + `<serial type='file'><source path='/f' append='on'/><log file='/l'/></serial>` + end:                          {Domain: "a<b&c", Active: true, Type: "file", Path: "/f", Log: "/l", Appends: true},
		live + `<serial type='file'><source path='/f' append='off'/><log file='/l' append='on'/></serial>` + end:             {Domain: "a<b&c", Active: true, Type: "file", Path: "/f", Log: "/l"},
		live + `<serial type='unix'><source path='/u'/></serial>` + end:                                                      {Domain: "a<b&c", Active: true, Type: "unix"},
		`<domain><devices><serial type='pty'><source path='/dev/pts/7'/></serial>` + end:                                     {Type: "pty"},
		`<domain><devices/><devices><serial/>` + end:                                                                         {Type: "pty"},
	} {
		if s, err := parseSerial(doc); err != nil || s != want {
			t.Errorf("%s:\ngot  %+v, %v\nwant %+v", doc, s, err, want)
		}
	}
	for _, test := range []struct {
		s    Serial
		want string
	}{
		{Serial{Type: "file", Path: "/f", Log: "/l"}, "/f"},
		{Serial{Type: "pty", Path: "/dev/pts/7", Log: "/l"}, "/l"},
		{Serial{Type: "pty", Path: "/dev/pts/7"}, ""},
	} {
		if got := test.s.File(); got != test.want {
			t.Errorf("%+v: file %q", test.s, got)
		}
	}
}

// FuzzEdit edits whatever can be parsed: the console is then where it should
// be, a second edit changes nothing, and nothing else has changed.
func FuzzEdit(f *testing.F) {
	consoles := []Console{File, PTY, Both}
	for i, e := range edits {
		f.Add(withSerial(e.serial), uint8(i), e.file)
		f.Add("<domain><devices>"+e.serial+"</devices></domain>", uint8(i), "/l")
	}
	f.Add(`<domain><devices><serial/></devices></domain>`, uint8(0), "/")
	f.Fuzz(func(t *testing.T, doc string, n uint8, file string) {
		console := consoles[int(n)%len(consoles)]
		got, err := edit(doc, console, file)
		_, unreadable := parseSerial(doc)
		if refused := check(console, file) != nil || unreadable != nil; refused != (err != nil) {
			t.Fatalf("error %v, refused %t", err, refused)
		}
		if err != nil {
			return
		}
		s, err := parseSerial(got)
		if err != nil || !s.is(console, file) {
			t.Fatalf("%+v, %v", s, err)
		}
		if again, err := edit(got, console, file); err != nil || again != got {
			t.Fatalf("edited again: %v\n%s", err, again)
		}
		if before, after := frame(t, doc), frame(t, got); before != after {
			t.Fatalf("something else has changed:\n%q\n%q", before, after)
		}
	})
}

// frame returns what is before and after the console's <serial>.
func frame(t *testing.T, doc string) [2]string {
	domain, err := parse(doc)
	if err != nil {
		t.Fatal(err)
	}
	port, err := consolePort(domain)
	if err != nil {
		t.Fatal(err)
	}
	return [2]string{doc[:port.start], doc[port.end:]}
}
