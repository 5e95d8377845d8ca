package converter

import "sync"

// buffers are what a worker needs while it converts. They are shared by all
// workers, and small unless there is much to do: a thousand workers may wait for
// the same disk.
type buffers struct {
	raw   []byte // of a read, behind the tail of the position
	batch []byte // of records, for one write
	full  int    // when a batch is written; it has room for one record more
	pool  *sync.Pool
}

// A read and its records stay in a core's second-level cache, until the kernel
// has copied them. A batch is twice a read and more: so much do short lines grow.
const (
	smallRead, largeRead   = 64 << 10, 256 << 10
	smallBatch, largeBatch = 192 << 10, 768 << 10
	// recordRoom is more than one record takes, also in JSON.
	recordRoom = 128 << 10
)

// bufferPools are the buffers of a Manager's workers. The zero value is ready.
type bufferPools struct{ small, large sync.Pool }

// get returns buffers, large ones for a backlog. The caller puts them back.
func (p *bufferPools) get(large bool) *buffers {
	pool, read, batch := &p.small, smallRead, smallBatch
	if large {
		pool, read, batch = &p.large, largeRead, largeBatch
	}
	if b, ok := pool.Get().(*buffers); ok {
		return b
	}
	return &buffers{raw: make([]byte, tailLength+read), batch: make([]byte, 0, batch+recordRoom), full: batch, pool: pool}
}

func (b *buffers) put() { b.pool.Put(b) }
