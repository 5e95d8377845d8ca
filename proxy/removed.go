package proxy

import "sync"

// removals are the IDs of the containers and sandboxes that were removed while
// somebody looks at what the runtime lists: the list may be older than the removal,
// and must not bring them back.
type removals struct {
	mu      sync.Mutex
	looking int
	ids     map[string]bool // empty while nobody looks
}

// watch begins a look; the returned function ends it.
func (r *removals) watch() (end func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.looking++
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.looking--; r.looking == 0 {
			r.ids = nil
		}
	}
}

// add notes that the runtime has removed id. Its record goes after that.
func (r *removals) add(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.looking == 0 {
		return
	}
	if r.ids == nil {
		r.ids = make(map[string]bool)
	}
	r.ids[id] = true
}

// remove notes that the runtime has made id again.
func (r *removals) remove(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.ids, id)
}

func (r *removals) has(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ids[id]
}
