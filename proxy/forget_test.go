package proxy

import (
	"testing"

	"github.com/cri-logproxy/cri-logproxy/converter"
	"github.com/cri-logproxy/cri-logproxy/proxy/logmap"
)

// TestForgetAll leaves nothing of a container in memory: a node sees many.
func TestForgetAll(t *testing.T) {
	dir := t.TempDir()
	logs, _, err := logmap.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer logs.Close()
	converters, err := converter.NewManager(converter.Config{RawRoot: dir, LogRoot: dir, StateDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer converters.Close(t.Context())
	s := &Server{logs: logs, converters: converters}
	s.choose(Peer{})
	if err := logs.PutContainer(logmap.Container{ID: "c"}); err != nil {
		t.Fatal(err)
	}
	s.started(t.Context(), logmap.Container{ID: "c"}, nil)
	s.forget(t.Context(), "c")
	for name, set := range map[string]*idSet{"alive": &s.alive, "starting": &s.starting, "others": &s.others} {
		if left := set.all(); len(left) > 0 {
			t.Errorf("%s: %q", name, left)
		}
	}
}
