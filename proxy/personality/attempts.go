package personality

import (
	"strconv"
	"strings"
)

// Attempts is for every Virtlet.
var Attempts = &Repair{
	Name: "attempts",
	Reason: "a container ID that stays the same over restarts, with the first attempt's number (1.0 and later), leaves kubelet " +
		"without `logs --previous`, with links to old logs and with logs that pile up",
	needed: isVirtlet,
}

// AttemptID is the ID that kubelet is given for an attempt of the container
// that the runtime calls id: one of its own, which is the same again when no
// record of it is left.
func AttemptID(id string, attempt uint32) string {
	if attempt == 0 {
		return id
	}
	return id + "-" + strconv.FormatUint(uint64(attempt), 10)
}

// SplitAttemptID is the inverse. ok is false for what AttemptID does not make.
// The last part of a UUID, which Virtlet's IDs are, is longer than a number.
func SplitAttemptID(kubeletID string) (id string, attempt uint32, ok bool) {
	i := strings.LastIndexByte(kubeletID, '-')
	if i <= 0 {
		return "", 0, false
	}
	n, err := strconv.ParseUint(kubeletID[i+1:], 10, 32)
	if err != nil || AttemptID(kubeletID[:i], uint32(n)) != kubeletID {
		return "", 0, false
	}
	return kubeletID[:i], uint32(n), true
}

// LastAttempt returns the highest attempt that left a file in the log directory
// of a container, as kubelet itself counts (pkg/kubelet/kuberuntime,
// calcRestartCountByLogDir): `<attempt>.log`, and what it was rotated to.
func LastAttempt(files []string) (attempt uint32) {
	for _, name := range files {
		number, rest, _ := strings.Cut(name, ".")
		if rest != "log" && !strings.HasPrefix(rest, "log.") {
			continue
		}
		if n, err := strconv.ParseUint(number, 10, 32); err == nil {
			attempt = max(attempt, uint32(n))
		}
	}
	return attempt
}
