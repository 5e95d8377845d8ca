package personality

import runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

// FinishedAt is for every Virtlet.
var FinishedAt = &Repair{
	Name:   "finished-at",
	Reason: "without a finished_at kubelet has no back-off, and starts a VM that powers off again at once, for ever",
	needed: isVirtlet,
}

// What containerd answers, too.
const (
	reasonCompleted  = "Completed"
	reasonStartError = "StartError"
	exitStartError   = 128
)

// Finish completes the status of a container that is over by when that was, in
// Unix nanoseconds.
func Finish(st *runtimeapi.ContainerStatus, at int64) {
	if st.FinishedAt == 0 {
		st.FinishedAt = at
	}
	if st.Reason == "" {
		st.Reason = reasonCompleted
	}
}

// FailStart makes a status that of a container that could not be started. One
// that stayed CREATED would be tried again without a back-off.
func FailStart(st *runtimeapi.ContainerStatus, at int64, why string) {
	st.State = runtimeapi.ContainerState_CONTAINER_EXITED
	st.StartedAt, st.FinishedAt = at, at
	st.ExitCode, st.Reason, st.Message = exitStartError, reasonStartError, why
}
