package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cri-logproxy/cri-logproxy/converter"
)

const (
	many        = 1000
	idleSeconds = 30
)

// idle measures what 1,000 followed VMs cost that write nothing. It is done in
// a process of its own.
func idle(_ context.Context, b *bench) error {
	cmd, err := child("idle", filepath.Join(b.dir, "idle"))
	if err != nil {
		return err
	}
	out, err := cmd.Output()
	if err != nil {
		return err
	}
	var rss, cpu, wakeups float64
	if _, err := fmt.Sscan(string(out), &rss, &cpu, &wakeups); err != nil {
		return fmt.Errorf("%w in %q", err, out)
	}
	b.report("idle/1000/rss-per-vm", rss, "KiB")
	b.report("idle/1000/cpu", cpu, "%")
	b.report("idle/1000/wakeups", wakeups, "/s")
	return nil
}

func idleChild(args []string) error {
	ctx := context.Background()
	m, dir, err := newManager(&bench{args[0]}, "idle", converter.CRI)
	if err != nil {
		return err
	}
	defer m.Close(ctx)
	debug.FreeOSMemory()
	before, err := procStatus("VmRSS")
	if err != nil {
		return err
	}
	if err := beginMany(ctx, m, dir); err != nil {
		return err
	}
	time.Sleep(6 * time.Second) // until all are quiet, and their checkpoints saved
	debug.FreeOSMemory()
	after, err := procStatus("VmRSS")
	if err != nil {
		return err
	}
	cpuBefore, err := cpuTime()
	if err != nil {
		return err
	}
	switchesBefore, err := switches()
	if err != nil {
		return err
	}
	time.Sleep(idleSeconds * time.Second)
	cpuAfter, err := cpuTime()
	if err != nil {
		return err
	}
	switchesAfter, err := switches()
	if err != nil {
		return err
	}
	fmt.Println((after-before)/many, 100*(cpuAfter-cpuBefore).Seconds()/idleSeconds, (switchesAfter-switchesBefore)/idleSeconds)
	return nil
}

// beginMany begins many VMs that have printed a login prompt.
func beginMany(ctx context.Context, m *converter.Manager, dir string) error {
	for i := range many {
		v, err := newVM(m, dir, fmt.Sprintf("vm%04d", i))
		if err != nil {
			return err
		}
		if err := os.WriteFile(v.raw, []byte("booted\r\nlogin: "), 0o600); err != nil {
			return err
		}
		if err := v.begin(ctx); err != nil {
			return err
		}
	}
	return nil
}

// procStatus reads a number of /proc/self/status.
func procStatus(field string) (float64, error) {
	return statusField("/proc/self/status", field)
}

func statusField(path, field string) (float64, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			return strconv.ParseFloat(strings.Fields(rest)[0], 64)
		}
	}
	return 0, fmt.Errorf("no %s in %s", field, path)
}

// switches counts how often the threads of this process have gone to sleep: as
// often as they were woken.
func switches() (sum float64, err error) {
	tasks, err := filepath.Glob("/proc/self/task/*/status")
	if err != nil {
		return 0, err
	}
	for _, task := range tasks {
		n, err := statusField(task, "voluntary_ctxt_switches")
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

const (
	floodRate    = 100 << 20
	floodSeconds = 8
)

// fair measures the latency of 99 quiet VMs while one writes as fast as the disk
// takes it.
func fair(ctx context.Context, b *bench) error {
	m, dir, err := newManager(b, "fair", converter.CRI)
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	defer m.Close(ctx)
	var vms []*vm
	for i := range 100 {
		v, err := newVM(m, dir, fmt.Sprintf("vm%02d", i))
		if err != nil {
			return err
		}
		if err := os.WriteFile(v.raw, nil, 0o600); err != nil {
			return err
		}
		if err := v.begin(ctx); err != nil {
			return err
		}
		vms = append(vms, v)
	}
	flood, err := child("write-flood", vms[99].raw, fmt.Sprint(floodRate), fmt.Sprint(floodSeconds))
	if err != nil {
		return err
	}
	if err := flood.Start(); err != nil {
		return err
	}
	took, err := quietLatencies(vms[:99], flood)
	if err != nil {
		return err
	}
	b.report("fair/99-quiet/p99", percentile(took, 99)/1e3, "ms")
	return nil
}

// quietLatencies writes a line to one VM after the other until flood ends.
func quietLatencies(vms []*vm, flood *exec.Cmd) (took []time.Duration, err error) {
	ended := make(chan error, 1)
	go func() { ended <- flood.Wait() }()
	for i := 0; ; i++ {
		select {
		case err := <-ended:
			return took, err
		default:
		}
		one, err := lineTakes(vms[i%len(vms)])
		if err != nil {
			return nil, err
		}
		took = append(took, one)
		time.Sleep(2 * time.Millisecond)
	}
}

// lineTakes writes a line and waits for its record, without keeping a core busy:
// the flood needs it.
func lineTakes(v *vm) (time.Duration, error) {
	raw, err := os.OpenFile(v.raw, os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return 0, err
	}
	defer raw.Close()
	before, err := os.Stat(v.log)
	if err != nil {
		return 0, err
	}
	start := time.Now()
	if _, err := raw.WriteString("a line of a quiet VM\r\n"); err != nil {
		return 0, err
	}
	for {
		now, err := os.Stat(v.log)
		if err != nil {
			return 0, err
		}
		if now.Size() > before.Size() {
			return time.Since(start), nil
		}
		time.Sleep(50 * time.Microsecond)
	}
}

// resume measures from the start of a manager to all its converters following
// again.
func resume(ctx context.Context, b *bench) error {
	m, dir, err := newManager(b, "resume", converter.CRI)
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := beginMany(ctx, m, dir); err != nil {
		return err
	}
	if err := m.Close(ctx); err != nil {
		return err
	}
	start := time.Now()
	if m, _, err = newManager(b, "resume", converter.CRI); err != nil {
		return err
	}
	defer m.Close(ctx)
	errs := make([]error, many)
	var wg sync.WaitGroup
	for i := range many {
		id := fmt.Sprintf("vm%04d", i)
		wg.Go(func() {
			errs[i] = m.Resume(ctx, converter.Run{ContainerID: id, RawNames: []string{id + "/_0.log"}, LogName: id + "/0.log"})
		})
	}
	wg.Wait()
	took := time.Since(start)
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	b.report("resume/1000", took.Seconds(), "s")
	return nil
}
