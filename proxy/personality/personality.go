// Package personality has the repairs of what a known runtime answers, where
// kubelet would misunderstand it: one file a repair, with its reason.
//
// Which repairs a runtime gets depends on the name and the API version that it
// has told. The functions are pure but for one that asks a file system; the
// proxy calls them where a call passes.
package personality

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cri-logproxy/cri-logproxy/proxy/api"
)

// Repair is one thing about a runtime that is mended.
type Repair struct {
	// Name is what --personality knows it by.
	Name string
	// Reason says on one line what goes wrong without it.
	Reason string

	needed func(Runtime) bool
}

// All are the repairs there are.
var All = []*Repair{LogPath, FinishedAt, Attempts, StoppedDisk, Namespaces, Stats, ImageFS, ErrorCodes, LostDomain}

// Runtime is what a runtime has told of itself.
type Runtime struct {
	Name string  // as its Version says
	APIs api.Set // the versions of CRI that it serves
}

// newest is the newest version of CRI that it serves; v1 if it has not told.
func (r Runtime) newest() api.Version { return r.APIs.Choose(api.V1) }

// Virtlet is how Virtlet calls itself. It ended before CRI v1 began.
const Virtlet = "virtlet"

func isVirtlet(r Runtime) bool { return r.Name == Virtlet }

// isNewVirtlet says that it is Virtlet 1.1 or later.
func isNewVirtlet(r Runtime) bool { return isVirtlet(r) && r.newest() != api.V1alpha1 }

// Set is a choice of repairs.
type Set []*Repair

// Has says whether a repair is in force.
func (s Set) Has(r *Repair) bool { return slices.Contains(s, r) }

// String lists the names.
func (s Set) String() string {
	names := make([]string, len(s))
	for i, r := range s {
		names[i] = r.Name
	}
	return strings.Join(names, ", ")
}

// Choice is what --personality says. The zero value is "auto".
type Choice struct {
	runtime string // whose personality; "" for that of the runtime itself
	without []*Repair
}

// unknown is the name of a runtime that is not known.
const unknown = "none"

// ParseChoice reads "auto", "none" or the name of a known runtime, and behind
// it what to leave out, as "auto,-stats,-attempts".
func ParseChoice(text string) (Choice, error) {
	parts := strings.Split(text, ",")
	var c Choice
	switch parts[0] {
	case "auto":
	case unknown, Virtlet:
		c.runtime = parts[0]
	default:
		return c, fmt.Errorf("%q: want auto, none or virtlet", parts[0])
	}
	for _, part := range parts[1:] {
		i := slices.IndexFunc(All, func(r *Repair) bool { return "-"+r.Name == part })
		if i < 0 {
			return c, fmt.Errorf("%q: want - and the name of a repair: %v", part, Set(All))
		}
		c.without = append(c.without, All[i])
	}
	return c, nil
}

// For returns the repairs for a runtime. By itself nothing that serves CRI v1
// is taken for Virtlet.
func (c Choice) For(r Runtime) Set {
	switch {
	case c.runtime != "":
		r.Name = c.runtime
	case r.newest() == api.V1:
		r.Name = unknown
	}
	var set Set
	for _, repair := range All {
		if repair.needed(r) && !slices.Contains(c.without, repair) {
			set = append(set, repair)
		}
	}
	return set
}
