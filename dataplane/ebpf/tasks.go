// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"context"
	"fmt"
	"time"

	"github.com/waggle-lb/waggle/internal/task"
	"github.com/waggle-lb/waggle/maps/flows"
)

// Tasks returns what has to run beside Apply: the one that follows devices and
// addresses, the one that ends idle flows, the one that says what runs out, the
// one that audits the counts, and the one that ends what another layout left.
func (d *Dataplane) Tasks() []task.Task {
	return []task.Task{&follower{d: d}, &sweeper{d: d}, &shortageWatcher{d: d}, &auditor{d: d}, &drainer{d: d, after: d.drain}}
}

// How the sweeper paces itself: it takes breath after each piece of a walk.
const (
	walkEvery = 2 * time.Second
	breath    = time.Millisecond
)

// sweeper walks the flows and ends those that are idle for their timeout.
type sweeper struct {
	task.Readiness
	task.Pulse
	d *Dataplane
}

func (*sweeper) String() string { return "flow sweeper" }

func (t *sweeper) Run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-t.d.published.Ready():
	}
	tick := time.NewTicker(walkEvery)
	defer tick.Stop()
	t.SetReady()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.Beats():
			continue
		case <-tick.C:
		}
		if err := t.d.sweep(ctx, t.Beats()); err != nil {
			t.d.log.Error("flows are not swept", "error", err)
		}
	}
}

// sweep walks the flows once and frees what has rested. It receives from beats
// now and then, as a walk may be long.
func (d *Dataplane) sweep(ctx context.Context, beats <-chan struct{}) error {
	if err := d.flushLost(); err != nil {
		return err
	}
	if err := d.walk(ctx, beats); err != nil {
		return fmt.Errorf("walk map flows: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.state.reap()
}

func (d *Dataplane) flushLost() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.state.flushLost()
}

// walk lets the programs walk the flows. A whole walk says how many entries
// there are.
func (d *Dataplane) walk(ctx context.Context, beats <-chan struct{}) error {
	leased, gen, release := d.lease(ctx)
	defer release()
	n, err := flows.Sweep(&gen.LBObjects, func() error {
		select {
		case <-beats:
		default:
		}
		return pause(leased, breath)
	})
	if leased.Err() != nil {
		return nil // the next walk is another generation's
	}
	if err == nil {
		d.entries.Store(n)
	}
	return err
}
