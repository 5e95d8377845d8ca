package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/cri-logproxy/cri-logproxy/e2e/libvirtd"
	"github.com/cri-logproxy/cri-logproxy/libvirt"
)

// ensureLogDomain is a VM's domain as the runtime defines it, with name and
// UUID.
const ensureLogDomain = `<domain type='qemu'><name>%s</name><uuid>%s</uuid><memory unit='MiB'>96</memory>
<os><type arch='x86_64' machine='pc'>hvm</type></os>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
<serial type='pty'><target port='0'/></serial></devices></domain>`

// ensureLog measures what mode both adds between CreateContainer and the start
// of a VM, with a real libvirtd.
func ensureLog(ctx context.Context, b *bench) (err error) {
	in, err := libvirtd.Start(ctx, libvirtd.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.Stop()) }()
	runtime, err := in.Dial()
	if err != nil {
		return err
	}
	defer runtime.Disconnect()
	client := libvirt.New(in.Socket)
	defer client.Close()
	const vms = 50
	var took []float64
	for i := range vms {
		id := fmt.Sprintf("87a6f0c1-5b1c-5f0f-9d6e-%012d", i)
		if _, err := runtime.DomainDefineXML(fmt.Sprintf(ensureLogDomain, "bench"+id, id)); err != nil {
			return err
		}
		raw := filepath.Join(b.dir, id, "_0.log")
		start := time.Now()
		if err := os.Mkdir(filepath.Dir(raw), 0o700); err != nil {
			return err
		}
		s, err := client.SetConsole(ctx, id, libvirt.Both, raw)
		if err != nil {
			return err
		}
		took = append(took, float64(time.Since(start))/float64(time.Millisecond))
		if s.Log != raw {
			return fmt.Errorf("the domain logs to %q, want %q", s.Log, raw)
		}
	}
	b.report("libvirt/ensure-log", median(took), "ms")
	return nil
}
