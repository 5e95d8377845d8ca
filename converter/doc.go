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
// A worker's other sides are begin.go (a Run begins), command.go (what others ask
// of it), report.go (what it tells), save.go (its checkpoints), resume.go,
// replay.go and locate.go (how it finds its place again after a crash),
// reclaim.go (disk space given back) and orphan.go (a rotation taken back).
//
// Beside them stand generations.go (raw logs that are rotated), block.go (the
// short cut for plain lines), decoder.go (records read back), watcher.go (one
// inotify instance for all) and beneath.go (opening files that others may have
// planted).
//
// The raw log is the buffer: nothing is consumed that is not in the container
// log, so a worker that stops, for whatever reason, loses nothing.
package converter
