package proxytest

import (
	"slices"
	"strings"
	"testing"
)

// TestRenaming has a forwarder do no more than rename, which is all that there is
// to do between v1 and v1alpha2.
func TestRenaming(t *testing.T) {
	t.Parallel()
	for _, pair := range [][2]string{{V1, V1alpha2}, {V1alpha2, V1}} {
		t.Run(pair[0]+" to "+pair[1], func(t *testing.T) {
			RunBridge(t, forwardThrough(faults{renames: pair}), pair[0], pair[1], Options{})
		})
	}
}

// TestRenamingIsNotEnough wants the suite to object to it where one side is
// v1alpha1, and just to the messages that differ.
func TestRenamingIsNotEnough(t *testing.T) {
	t.Parallel()
	for _, pair := range [][2]string{{V1, V1alpha1}, {V1alpha1, V1}, {V1alpha2, V1alpha1}} {
		opts := bridgedOptions(Options{}, pair[0], pair[1])
		var objected []string
		for _, c := range bridgeCases(pair[0], pair[1]) {
			for _, m := range compare(t, c, forwardThrough(faults{renames: pair}), opts) {
				name, what, _ := strings.Cut(m, ":")
				if rpc, _, _ := strings.Cut(name, " at the backend"); !slices.Contains(objected, rpc) {
					objected = append(objected, rpc)
				}
				if !strings.Contains(what, "messages differ") {
					t.Errorf("%v: %s", pair, m)
				}
			}
		}
		slices.Sort(objected)
		if want := []string{"CreateContainer", "PodSandboxStatus", "RunPodSandbox"}; !slices.Equal(objected, want) {
			t.Errorf("%v: the suite objects to %q", pair, objected)
		}
	}
}

// TestNotRenaming wants it to object to every call.
func TestNotRenaming(t *testing.T) {
	t.Parallel()
	opts := bridgedOptions(Options{}, V1, V1alpha2)
	for _, c := range bridgeCases(V1, V1alpha2) {
		if found := compare(t, c, forwardThrough(faults{}), opts); (len(found) == 0) != (c.name == "unknown service") {
			t.Errorf("%s: found %q", c.name, found)
		}
	}
}
