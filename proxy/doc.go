// Package proxy is a CRI server that stands between kubelet and a runtime of
// virtual machines. It forwards every call as it came, as raw bytes, except the
// few whose logs it owns.
//
// A call passes the files of this package in this order:
//
//	listen.go     the unix socket that kubelet calls
//	server.go     which calls are ours, under which services
//	forward.go    all others: raw frames in both directions
//	attempt.go    what kubelet means by a container ID; ended.go: an attempt that is over
//	lifecycle.go  ours, on the way in: the log map, the converters
//	answers.go    ours, on the way out: kubelet's own log paths
//	bridge.go     from the client's version of CRI to the runtime's
//	runtime.go    the connection to the runtime
//	peer.go       who the runtime is
//
// paths.go holds the rules for paths, without I/O; reconcile.go makes the log
// map agree with the runtime after a restart.
//
// A fault of the log side never fails a call and delays none by more than
// drainTimeout.
package proxy
