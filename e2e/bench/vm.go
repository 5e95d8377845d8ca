package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cri-logproxy/cri-logproxy/converter"
)

// vm is a VM as far as the converter knows: a raw log and a container log.
type vm struct {
	manager *converter.Manager
	run     converter.Run
	raw     string
	log     string
}

// newManager makes directories and a manager for them. The caller closes it.
func newManager(b *bench, name string, format converter.Format) (*converter.Manager, string, error) {
	dir := filepath.Join(b.dir, name)
	for _, d := range []string{"raw", "pods"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, "", err
		}
	}
	m, err := converter.NewManager(converter.Config{
		RawRetain: -1, // the raw logs are read again
		RawRoot:   filepath.Join(dir, "raw"), LogRoot: filepath.Join(dir, "pods"), StateDir: filepath.Join(dir, "state"),
		Format: format,
	})
	return m, dir, err
}

// newVM makes the directories of a VM.
func newVM(m *converter.Manager, dir, id string) (*vm, error) {
	v := &vm{
		manager: m,
		run:     converter.Run{ContainerID: id, RawNames: []string{filepath.Join(id, "_0.log")}, LogName: filepath.Join(id, "0.log")},
	}
	v.raw, v.log = filepath.Join(dir, "raw", v.run.RawNames[0]), filepath.Join(dir, "pods", v.run.LogName)
	for _, path := range []string{v.raw, v.log} {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return nil, err
		}
	}
	return v, nil
}

func (v *vm) begin(ctx context.Context) error { return v.manager.Begin(ctx, v.run) }

// consoleText is what a Linux VM writes on its console while it boots, line by
// line, n bytes of it.
func consoleText(n int) []byte {
	var b bytes.Buffer
	b.Grow(n + 256)
	lines := []string{
		"Linux version 6.1.0-cloud-amd64 (debian-kernel) (gcc-12 (Debian 12.2.0-14) 12.2.0) #1 SMP PREEMPT_DYNAMIC",
		"x86/fpu: Supporting XSAVE feature 0x001: 'x87 floating point registers'",
		"BIOS-provided physical RAM map:",
		"ACPI: LAPIC_NMI (acpi_id[0xff] dfl dfl lint[0x1])",
		"pci 0000:00:01.1: legacy IDE quirk: reg 0x10: [io  0x01f0-0x01f7]",
		"",
		"\x1b[0;32m  OK  \x1b[0m] Started \x1b[0;1;39mNetwork Time Synchronization\x1b[0m.",
		"systemd[1]: Reached target Local File Systems.",
		"eth0: link up, 1000Mbps, full-duplex, lpa 0x41E1",
	}
	for i := 0; b.Len() < n; i++ {
		fmt.Fprintf(&b, "[%5d.%06d] %s\r\n", i/1000, i%1000*997, lines[i%len(lines)])
	}
	return b.Bytes()[:n]
}
