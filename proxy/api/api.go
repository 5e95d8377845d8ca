// Package api knows the versions of CRI: how their services are called on the
// wire, and where their messages differ in meaning.
//
// Every message of v1alpha1 and v1alpha2 has its like in v1 under the same field
// numbers, so that a call is taken from one version to another by renaming the
// service in its path. Only NamespaceOption means something else in v1alpha1
// (namespaces.go).
package api

import "strings"

// Version is a version of CRI. The greater is the newer.
type Version int

// The versions that there are.
const (
	V1alpha1 Version = iota // Kubernetes 1.5 to 1.9
	V1alpha2                // 1.10 to 1.25
	V1                      // 1.20 on
)

// Versions are all of them, the newest first.
var Versions = []Version{V1, V1alpha2, V1alpha1}

// Package is the protobuf package of the version's services. The oldest has no
// version in it.
func (v Version) Package() string {
	switch v {
	case V1:
		return "runtime.v1"
	case V1alpha2:
		return "runtime.v1alpha2"
	}
	return "runtime"
}

// String is the version's name for people.
func (v Version) String() string {
	switch v {
	case V1:
		return "v1"
	case V1alpha2:
		return "v1alpha2"
	}
	return "v1alpha1"
}

// The services of CRI, without their package.
const (
	RuntimeService = "RuntimeService"
	ImageService   = "ImageService"
)

// Method is a method of a service of CRI.
type Method struct {
	Version Version
	Service string // RuntimeService or ImageService
	Name    string
}

// ParseMethod takes the path of a gRPC call apart, such as
// /runtime.v1.ImageService/PullImage. ok is false if it is none of CRI's.
func ParseMethod(path string) (m Method, ok bool) {
	full, name, ok := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	if !ok {
		return Method{}, false
	}
	dot := strings.LastIndexByte(full, '.')
	if dot < 0 || full[dot+1:] != RuntimeService && full[dot+1:] != ImageService {
		return Method{}, false
	}
	for _, v := range Versions {
		if full[:dot] == v.Package() {
			return Method{Version: v, Service: full[dot+1:], Name: name}, true
		}
	}
	return Method{}, false
}

// FullService is the name of the method's service on the wire.
func (m Method) FullService() string { return m.Version.Package() + "." + m.Service }

// Path is the path of a call.
func (m Method) Path() string { return "/" + m.FullService() + "/" + m.Name }

// Under is the same method of another version.
func (m Method) Under(v Version) Method {
	m.Version = v
	return m
}
