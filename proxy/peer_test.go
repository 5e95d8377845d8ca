package proxy_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-logproxy/cri-logproxy/proxy/proxytest"
)

// hideName has the runtime not tell its name from now on, as one that takes too
// long to answer Version.
func hideName(b *proxytest.Backend) {
	b.Handle("Version", proxytest.Typed(func(context.Context, *runtimeapi.VersionRequest) (*runtimeapi.VersionResponse, error) {
		return nil, errors.New("not yet")
	}))
}

// TestNameUntold starts the proxy again while the runtime does not tell its name:
// all is as before, also where only the attempts are on record.
func TestNameUntold(t *testing.T) {
	for name, lost := range map[string][]string{"all on record": nil, "of a release before the runtime was": {"runtime.json"}} {
		t.Run(name, func(t *testing.T) {
			r, v := newVirtletRig(t, "auto")
			r.attempt(0)
			v.powerOff()
			r.attempt(1)
			hideName(r.backend)
			r.stop()
			for _, file := range lost {
				if err := os.Remove(filepath.Join(r.dir, "state", file)); err != nil {
					t.Fatal(err)
				}
			}
			r.start()
			r.wantListed("-1 1 RUNNING", " 0 EXITED")
			if err := r.removeContainer(virtletID); err != nil || len(v.calls) > 0 {
				t.Errorf("remove the attempt before: %v, and the runtime was told %q", err, v.calls)
			}
			r.wantListed("-1 1 RUNNING")
			v.powerOff()
			if id := r.attempt(2); id != virtletID+"-2" {
				t.Errorf("the next attempt is %s", id)
			}
			if err := r.stopContainer(virtletID + "-2"); err != nil || !slices.Equal(v.calls, []string{"stop " + virtletID}) {
				t.Errorf("stop: %v, and the runtime was told %q", err, v.calls)
			}
		})
	}
}
