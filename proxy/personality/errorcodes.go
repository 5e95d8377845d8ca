package personality

import (
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// ErrorCodes is for every Virtlet.
var ErrorCodes = &Repair{
	Name:   "error-codes",
	Reason: "every error has the code Unknown, so what is gone is not taken for gone, nor what is not there for that",
	needed: isVirtlet,
}

// removable are the calls about something that may be gone, which kubelet takes
// for done or for an answer then.
var removable = []string{
	"ContainerStatus", "StopContainer", "RemoveContainer", "ContainerStats",
	"PodSandboxStatus", "StopPodSandbox", "RemovePodSandbox",
}

// Code gives an error of a call its code, if it has none. The text stays.
func Code(method string, err error) error {
	st, ok := status.FromError(err)
	if err == nil || !ok || st.Code() != codes.Unknown {
		return err
	}
	code := codes.Unknown
	switch text := st.Message(); {
	case strings.Contains(text, "not implemented"):
		code = codes.Unimplemented
	case slices.Contains(removable, method) && isNotFound(text):
		code = codes.NotFound
	default:
		return err
	}
	p := st.Proto() // a copy; details stay
	p.Code = int32(code)
	return status.ErrorProto(p)
}

// isNotFound knows how Virtlet says that something is gone: "domain not found",
// `pod sandbox "…" does not exist`, "sandbox … not found in Virtlet metadata
// store".
func isNotFound(text string) bool {
	return strings.HasSuffix(text, "domain not found") ||
		strings.HasPrefix(text, "pod sandbox ") && strings.HasSuffix(text, "does not exist") ||
		strings.Contains(text, "not found in Virtlet metadata store")
}
