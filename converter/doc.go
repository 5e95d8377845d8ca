// Package converter turns the raw console of a VM into the container log that
// kubelet reads.
//
// A byte passes the files of this package in this order:
//
//	follower.go    finds the raw log, survives its truncation and replacement
//	splitter.go    cuts bytes into lines              (pure)
//	encoder.go     writes lines as CRI or JSON records (pure)
//	output.go      appends whole records to the container log, reopens it
//	worker.go      one goroutine a VM that moves bytes from one to the other
//	manager.go     all workers of the node; what the proxy calls
//
// Beside them stand checkpoint.go (where a worker stands), decoder.go and
// replay.go (how a worker finds its place again after a crash), watcher.go
// (one inotify instance for all of them) and beneath.go (opening files that
// others may have planted).
//
// The raw log is the buffer: nothing is consumed that is not in the container
// log, so a worker that stops, for whatever reason, loses nothing.
package converter
