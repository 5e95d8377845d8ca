package logmap

import (
	"os"
	"testing"

	"github.com/cri-logproxy/cri-logproxy/proxy/api"
)

func TestRuntime(t *testing.T) {
	m := open(t, t.TempDir())
	if got := m.Runtime(); got != (Runtime{}) {
		t.Errorf("at first: %+v", got)
	}
	want := Runtime{Name: "virtlet", Version: "1.1"}
	want.APIs.Add(api.V1alpha2)
	must(t, m.PutRuntime(Runtime{Name: "containerd"}))
	must(t, m.PutRuntime(want))
	for range 2 {
		if got := m.Runtime(); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
		must(t, m.Close())
		m = open(t, m.dir)
	}
	must(t, m.Close())

	must(t, os.WriteFile(m.runtimeFile(), []byte("nonsense"), 0o600))
	m, damaged, err := Open(m.dir)
	must(t, err)
	defer m.Close()
	if got := m.Runtime(); len(damaged) != 1 || got != (Runtime{}) {
		t.Errorf("a damaged record is %+v; told of %v", got, damaged)
	}
}
