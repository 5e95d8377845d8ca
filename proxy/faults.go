package proxy

import (
	"sync"
	"time"
)

// faultAgain is the time until a fault of a peer's is logged again.
const faultAgain = time.Minute

// faults are the faults of peers that have been logged, by their names. Who sends
// what cannot be understood may do so many times a second.
type faults struct {
	mu     sync.Mutex
	logged map[string]time.Time
}

// due says that a fault is to be logged now. The names are few.
func (f *faults) due(name string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if last, ok := f.logged[name]; ok && time.Since(last) < faultAgain {
		return false
	}
	if f.logged == nil {
		f.logged = make(map[string]time.Time)
	}
	f.logged[name] = time.Now()
	return true
}
