package libvirt

import (
	"context"
	"errors"
	"time"

	golibvirt "github.com/digitalocean/go-libvirt"
)

// callTimeout bounds every call, whatever its context says: between kubelet and
// a VM nobody waits longer for libvirt.
const callTimeout = 2 * time.Second

// call calls libvirt. f must be fit to be called twice: if the connection
// breaks, it is, on a new one.
func call[T any](ctx context.Context, c *connector, f func(*golibvirt.Libvirt) (T, error)) (T, error) {
	var none T
	for again := true; ; again = false {
		conn, err := c.get(ctx)
		if err != nil {
			return none, err
		}
		result, err := do(ctx, conn, c.timeout, f)
		if _, answered := errors.AsType[golibvirt.Error](err); err == nil || answered {
			return result, err
		}
		if ctx.Err() != nil {
			return none, c.tooLate(ctx)
		}
		conn.stream.Close() // whatever it is, it may not be in step any more
		if !again {
			return none, c.unavailable(err)
		}
	}
}

// do calls f and waits for it until ctx ends. If f hangs, the connection is
// closed after the time-out: go-libvirt's calls end in no other way.
func do[T any](ctx context.Context, c *conn, timeout time.Duration, f func(*golibvirt.Libvirt) (T, error)) (T, error) {
	type outcome struct {
		result T
		err    error
	}
	done := make(chan outcome, 1)
	hangs := time.AfterFunc(timeout, func() { c.stream.Close() })
	go func() {
		defer hangs.Stop()
		result, err := f(c.Libvirt)
		done <- outcome{result, err}
	}()
	select {
	case o := <-done:
		return o.result, o.err
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
}
