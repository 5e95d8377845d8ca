package converter

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
)

// command is something that the worker's goroutine does for somebody who waits.
type command struct {
	do   func(*command) error
	done chan error
	// state is open, then taken back by who waits, or committed by the worker,
	// whoever is first.
	state atomic.Int32
}

const (
	commandOpen = iota
	commandTakenBack
	commandCommitted
)

// commit says that who waits will hear how the command ends. It is false if he
// has given up.
func (c *command) commit() bool {
	return c.state.CompareAndSwap(commandOpen, commandCommitted)
}

var (
	errStopped = errors.New("the converter has stopped")
	errGivenUp = errors.New("nobody waits any more")
)

// do has the worker's goroutine call fn. When ctx ends first, fn may still be
// called or go on.
func (w *worker) do(ctx context.Context, fn func() error) error {
	return w.send(ctx, func(*command) error { return fn() })
}

// send is do for a fn that can commit: then its result is waited for, though ctx
// ends.
func (w *worker) send(ctx context.Context, fn func(*command) error) error {
	cmd := &command{do: fn, done: make(chan error, 1)}
	select {
	case w.commands <- cmd:
	case <-w.done:
		return errStopped
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-cmd.done:
		return err
	case <-ctx.Done():
		if cmd.state.CompareAndSwap(commandOpen, commandTakenBack) {
			return ctx.Err()
		}
		return <-cmd.done
	}
}

// stop ends the worker. It writes nothing any more, but for what it is in the
// middle of. It waits for the worker until ctx ends: a disk may hang.
func (w *worker) stop(ctx context.Context) error {
	close(w.quit)
	select {
	case <-w.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("the converter hangs: %w", ctx.Err())
	}
}
