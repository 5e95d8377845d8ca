package converter

import (
	"time"

	"github.com/golang/glog"
)

const (
	minBackoff = 50 * time.Millisecond
	maxBackoff = 5 * time.Second
)

// fault is a condition that may last: it is logged when it begins, when its
// cause changes and when it ends, never in between.
type fault struct {
	// what cannot be done, and for whom: "write the container log of …".
	what string
	// meanwhile says what that means until it works again.
	meanwhile string

	cause   string
	since   time.Time
	backoff time.Duration
}

// set notes that the fault is there and returns how long to wait before the
// next try.
func (f *fault) set(err error) time.Duration {
	if f.cause == "" {
		f.since, f.backoff = time.Now(), minBackoff/2
	}
	if cause := err.Error(); cause != f.cause {
		f.cause = cause
		glog.Errorf("cannot %s: %v; trying again until it works, meanwhile %s", f.what, err, f.meanwhile)
	}
	f.backoff = min(2*f.backoff, maxBackoff)
	return f.backoff
}

// clear notes that all is well, and returns how long it was not, and why: 0 and
// "" if it was.
func (f *fault) clear() (lasted time.Duration, cause string) {
	if f.cause == "" {
		return 0, ""
	}
	lasted, cause, f.cause = time.Since(f.since), f.cause, ""
	glog.Infof("can %s again, after %v", f.what, lasted.Round(time.Millisecond))
	return lasted, cause
}
