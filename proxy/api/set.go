package api

import (
	"slices"
	"strings"
)

// Set is the versions that a runtime serves. The zero value has none.
type Set struct{ bits uint8 }

// Add puts a version in.
func (s *Set) Add(v Version) { s.bits |= 1 << v }

// Has says whether a version is in it.
func (s Set) Has(v Version) bool { return s.bits&(1<<v) != 0 }

// Empty says that there is none in it.
func (s Set) Empty() bool { return s.bits == 0 }

// Choose is the version for a call that a client makes under its own: this one
// if it is in the set, else the newest that is. It is the client's if there is
// nothing to choose from.
func (s Set) Choose(client Version) Version {
	if s.Has(client) {
		return client
	}
	for _, v := range Versions {
		if s.Has(v) {
			return v
		}
	}
	return client
}

// String lists the versions for people.
func (s Set) String() string {
	var names []string
	for _, v := range Versions {
		if s.Has(v) {
			names = append(names, v.String())
		}
	}
	return strings.Join(names, ", ")
}

// MarshalText is for records.
func (s Set) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText is the inverse. Versions that are not known are left out.
func (s *Set) UnmarshalText(text []byte) error {
	*s = Set{}
	names := strings.Split(string(text), ", ")
	for _, v := range Versions {
		if slices.Contains(names, v.String()) {
			s.Add(v)
		}
	}
	return nil
}
