package api_test

import (
	"testing"

	"github.com/cri-logproxy/cri-logproxy/proxy/api"
)

func TestParseMethod(t *testing.T) {
	for path, want := range map[string]api.Method{
		"/runtime.v1.RuntimeService/Version":       {Version: api.V1, Service: "RuntimeService", Name: "Version"},
		"/runtime.v1alpha2.ImageService/PullImage": {Version: api.V1alpha2, Service: "ImageService", Name: "PullImage"},
		"/runtime.RuntimeService/NotYetInvented":   {Version: api.V1alpha1, Service: "RuntimeService", Name: "NotYetInvented"},
	} {
		got, ok := api.ParseMethod(path)
		if !ok || got != want {
			t.Errorf("%s is %+v, %v", path, got, ok)
		}
		if got.Path() != path {
			t.Errorf("%s becomes %s", path, got.Path())
		}
		for _, v := range api.Versions {
			if back := got.Under(v).Under(got.Version); back != got {
				t.Errorf("%s comes back from %v as %s", path, v, back.Path())
			}
		}
	}
	for _, path := range []string{
		"", "/", "/Version", "/RuntimeService/Version", "/runtime.v9.RuntimeService/Version",
		"/runtime.v1.Other/Version", "/other.v1.RuntimeService/Version", "/a.runtime.v1.RuntimeService/Version",
		"/grpc.health.v1.Health/Check", "runtime.v1.RuntimeService",
	} {
		if m, ok := api.ParseMethod(path); ok {
			t.Errorf("%q is %+v", path, m)
		}
	}
}

func TestChoose(t *testing.T) {
	for _, test := range []struct {
		served []api.Version
		client api.Version
		want   api.Version
	}{
		{nil, api.V1, api.V1},
		{nil, api.V1alpha1, api.V1alpha1},
		{[]api.Version{api.V1}, api.V1, api.V1},
		{[]api.Version{api.V1}, api.V1alpha1, api.V1},
		{[]api.Version{api.V1alpha1}, api.V1, api.V1alpha1},
		{[]api.Version{api.V1alpha1, api.V1alpha2}, api.V1, api.V1alpha2},
		{[]api.Version{api.V1alpha2, api.V1}, api.V1alpha2, api.V1alpha2},
		{[]api.Version{api.V1alpha2, api.V1}, api.V1alpha1, api.V1},
		{api.Versions, api.V1alpha1, api.V1alpha1},
	} {
		var set api.Set
		for _, v := range test.served {
			set.Add(v)
		}
		if got := set.Choose(test.client); got != test.want {
			t.Errorf("a client of %v and a runtime with %v talk %v, want %v", test.client, set, got, test.want)
		}
	}
}

func TestSetString(t *testing.T) {
	var set api.Set
	if got := set.String(); got != "" || !set.Empty() {
		t.Errorf("the empty set is %q", got)
	}
	set.Add(api.V1alpha1)
	set.Add(api.V1)
	if got := set.String(); got != "v1, v1alpha1" || set.Empty() {
		t.Errorf("got %q", got)
	}
}

func TestSetText(t *testing.T) {
	for n := range 1 << len(api.Versions) {
		var set, got api.Set
		got.Add(api.V1)
		for i, v := range api.Versions {
			if n&(1<<i) != 0 {
				set.Add(v)
			}
		}
		text, err := set.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		if err := got.UnmarshalText(text); err != nil || got != set {
			t.Errorf("%q is read as %v: %v", text, got, err)
		}
	}
	var set api.Set
	if err := set.UnmarshalText([]byte("v2, v1alpha2")); err != nil || set.String() != "v1alpha2" {
		t.Errorf("of a newer release: %v, %v", set, err)
	}
}
