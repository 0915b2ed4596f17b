// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"sync"
)

// Pulse shows from outside whether a task's loop turns, for the type that
// embeds it: the loop receives from Beats wherever it waits. The zero value is
// ready. Safe for concurrent use; must not be copied.
type Pulse struct {
	mu    sync.Mutex
	beats chan struct{}
}

// Beats returns what the task's loop receives from.
func (p *Pulse) Beats() <-chan struct{} { return p.channel() }

// Beat returns nil once the task's loop has received, or the error of ctx. It
// does not return while the loop is held up.
func (p *Pulse) Beat(ctx context.Context) error {
	select {
	case p.channel() <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p *Pulse) channel() chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.beats == nil {
		p.beats = make(chan struct{})
	}
	return p.beats
}
