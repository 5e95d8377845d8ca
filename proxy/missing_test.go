package proxy

import (
	"slices"
	"testing"
	"time"
)

func TestMissing(t *testing.T) {
	onRecord := []string{"a", "b"}
	const listsNothing = ""
	for name, looks := range map[string][]struct {
		at     time.Duration
		listed string // the one that is
		gone   string // the one that is; "" for none
	}{
		"gone":                  {{0, "a", ""}, {15 * time.Second, "a", "b"}},
		"at once":               {{0, "a", ""}, {time.Second, "a", ""}, {14 * time.Second, "a", ""}, {15 * time.Second, "a", "b"}},
		"found in between":      {{0, "a", ""}, {10 * time.Second, "b", ""}, {15 * time.Second, "a", ""}, {25 * time.Second, "b", ""}, {40 * time.Second, "b", "a"}},
		"nothing":               {{0, listsNothing, ""}, {time.Hour, listsNothing, ""}, {2 * time.Hour, "a", ""}},
		"nothing for a while":   {{0, "a", ""}, {15 * time.Second, listsNothing, ""}, {30 * time.Second, "a", "b"}},
		"a look after a minute": {{0, "a", ""}, {time.Minute, "a", "b"}},
	} {
		t.Run(name, func(t *testing.T) {
			var m missing
			begin := time.Now()
			for _, look := range looks {
				listed := map[string]bool{}
				if look.listed != listsNothing {
					listed[look.listed] = true
				}
				var want []string
				if look.gone != "" {
					want = []string{look.gone}
				}
				if gone, more := m.look(begin.Add(look.at), 15*time.Second, onRecord, listed); !slices.Equal(gone, want) || !more {
					t.Errorf("after %v: %q is gone, %v, want %q", look.at, gone, more, want)
				}
			}
			if gone, more := m.look(begin, 0, onRecord, map[string]bool{"a": true, "b": true}); len(gone) > 0 || more {
				t.Errorf("all are there, and %q is gone, %v", gone, more)
			}
		})
	}
}
