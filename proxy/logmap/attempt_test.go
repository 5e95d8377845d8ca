package logmap

import (
	"reflect"
	"testing"
)

func TestAttempts(t *testing.T) {
	m := open(t, t.TempDir())
	first := Attempt{ID: "a", ContainerID: "a", SandboxID: "sandbox", Status: []byte{0, 0xff}}
	second := Attempt{ID: "a-1", ContainerID: "a", SandboxID: "sandbox", Status: []byte("second")}
	for _, a := range []Attempt{second, {ID: "a"}, first, {ID: "gone"}} {
		must(t, m.PutAttempt(a))
	}
	for range 2 {
		must(t, m.RemoveAttempt("gone"))
	}
	present, other := Container{ID: "a", KubeletID: "a-2"}, Container{ID: "b"}
	must(t, m.PutContainer(present))
	must(t, m.PutContainer(other))
	for range 2 {
		if got := m.Attempts(); !reflect.DeepEqual(got, []Attempt{first, second}) {
			t.Errorf("all attempts: %+v", got)
		}
		if got, ok := m.Attempt("a"); !ok || !reflect.DeepEqual(got, first) {
			t.Errorf("the first attempt: %+v, %v", got, ok)
		}
		if _, ok := m.Attempt("gone"); ok {
			t.Error("the removed attempt is on record")
		}
		for id, want := range map[string]Container{"a-2": present, "b": other, "a": {}, "a-1": {}, "": {}} {
			if got, ok := m.ByKubeletID(id); ok != (want.ID != "") || !reflect.DeepEqual(got, want) {
				t.Errorf("kubelet's %q is %+v, %v", id, got, ok)
			}
		}
		must(t, m.Close())
		m = open(t, m.dir)
	}
}
