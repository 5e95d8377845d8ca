package guest

import (
	"bytes"
	"compress/gzip"
	_ "embed"
	"fmt"
	"os"
)

//go:embed init
var initScript []byte

// File types of an archive's members, as stat(2) has them.
const (
	typeDir  = 0o040000
	typeChar = 0o020000
	typeFile = 0o100000
)

// initramfs returns a compressed archive that holds busybox, the init script
// and the awkward lines. The device nodes are for the moment before init has
// mounted a devtmpfs.
func initramfs(busybox string) ([]byte, error) {
	program, err := os.ReadFile(busybox)
	if err != nil {
		return nil, err
	}
	var a archive
	for _, dir := range []string{"bin", "dev", "known", "proc", "sys", "tmp"} {
		a.add(member{name: dir, mode: typeDir | 0o755})
	}
	a.add(member{name: "dev/console", mode: typeChar | 0o600, major: 5, minor: 1})
	a.add(member{name: "dev/null", mode: typeChar | 0o666, major: 1, minor: 3})
	a.add(member{name: "dev/ttyS0", mode: typeChar | 0o600, major: 4, minor: 64})
	a.add(member{name: "bin/busybox", mode: typeFile | 0o755, data: program})
	a.add(member{name: "init", mode: typeFile | 0o755, data: initScript})
	a.add(member{name: "known/head", mode: typeFile | 0o644, data: []byte(KnownHead())})
	a.add(member{name: "known/tail", mode: typeFile | 0o644, data: []byte(KnownTail())})
	a.add(member{name: "TRAILER!!!"})

	var out bytes.Buffer
	z, err := gzip.NewWriterLevel(&out, gzip.BestSpeed)
	if err != nil {
		return nil, err
	}
	if _, err := z.Write(a.Bytes()); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// archive is a cpio archive in the "newc" format that the kernel unpacks.
type archive struct {
	bytes.Buffer
	inode int
}

type member struct {
	name         string
	mode         uint32
	major, minor int // of a device node
	data         []byte
}

// add appends one member: 13 numbers of eight hexadecimal digits, the name,
// the content, each padded to four bytes.
func (a *archive) add(m member) {
	a.inode++
	a.WriteString("070701")
	for _, field := range []int{
		a.inode, int(m.mode), 0, 0, 1, 0, len(m.data), // inode, mode, uid, gid, links, mtime, size
		0, 0, m.major, m.minor, len(m.name) + 1, 0, // device, device node, name's length, checksum
	} {
		fmt.Fprintf(a, "%08X", field)
	}
	a.WriteString(m.name + "\x00")
	a.pad()
	a.Write(m.data)
	a.pad()
}

func (a *archive) pad() {
	for a.Len()%4 != 0 {
		a.WriteByte(0)
	}
}
