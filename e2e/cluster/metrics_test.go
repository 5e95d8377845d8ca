package cluster

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// stats waits until kubelet has figures of a pod's only container, among them
// the disk that its log takes.
func (r *rig) stats(podName string) {
	r.t.Helper()
	r.await("kubelet has figures of "+podName, func() (bool, error) {
		body, err := r.Kubelet.Summary(r.ctx)
		if err != nil {
			return false, err
		}
		var summary struct {
			Pods []struct {
				PodRef     struct{ Name, UID string }
				Containers []struct {
					CPU    struct{ UsageCoreNanoSeconds uint64 }
					Memory struct{ WorkingSetBytes uint64 }
					Logs   struct{ UsedBytes uint64 }
				}
			}
		}
		if err := json.Unmarshal(body, &summary); err != nil {
			return false, err
		}
		for _, p := range summary.Pods {
			if p.PodRef.Name != podName || len(p.Containers) != 1 {
				continue
			}
			used, err := diskUsage(r.logDir(podName, p.PodRef.UID))
			c := p.Containers[0]
			return c.CPU.UsageCoreNanoSeconds > 0 && c.Memory.WorkingSetBytes > 0 && c.Logs.UsedBytes == used, err
		}
		return false, nil
	})
}

// diskUsage returns what the files in a directory take.
func diskUsage(dir string) (total uint64, err error) {
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		return 0, err
	}
	for _, file := range files {
		info, err := os.Stat(file)
		if err != nil {
			continue // kubelet has given it another name
		}
		total += uint64(info.Sys().(*syscall.Stat_t).Blocks) * 512
	}
	return total, nil
}

// upgrade replaces the proxy by another process, as systemd does. None of
// kubelet's calls may fail.
func (r *rig) upgrade(goesOn func()) {
	r.t.Helper()
	failed := func() (n float64) {
		metrics, err := r.Kubelet.Metrics(r.ctx)
		r.must(err)
		for _, operation := range []string{"list_containers", "list_podsandbox", "container_status", "status", "version"} {
			n += sum(metrics, `kubelet_runtime_operations_errors_total{operation_type="`+operation+`"`)
		}
		return n
	}
	before := failed()
	r.must(r.Proxy.Stop())
	r.await("kubelet calls while there is no proxy", r.Proxy.Awaited)
	r.must(r.Proxy.Start(r.ctx))
	goesOn()
	if n := failed() - before; n > 0 {
		r.t.Errorf("%v calls have failed during an upgrade", n)
	}
}

// sum adds the values of the samples that begin with prefix.
func sum(metrics []byte, prefix string) (total float64) {
	for line := range strings.Lines(string(metrics)) {
		if strings.HasPrefix(line, prefix) {
			value, err := strconv.ParseFloat(strings.TrimSpace(line[strings.LastIndexByte(line, ' ')+1:]), 64)
			if err != nil {
				panic(err) // the format has it so
			}
			total += value
		}
	}
	return total
}
