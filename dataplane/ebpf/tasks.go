// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"context"
	"fmt"
	"time"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/internal/task"
	"github.com/waggle-lb/waggle/maps/flows"
)

// Tasks returns what has to run beside Apply: the one that follows devices and
// addresses, the one that ends idle flows, the one that says what runs out, the
// one that audits the counts, the one that ends sockets whose backend is gone, and
// the one that ends what another layout left.
func (d *Dataplane) Tasks() []task.Task {
	tasks := []task.Task{&follower{d: d}, &sweeper{d: d}, &shortageWatcher{d: d}, &auditor{d: d}, &socketEnder{d: d}, &drainer{d: d, after: d.drain}}
	if path, _ := d.loader.Cgroup(); path != "" {
		tasks = append(tasks, &bindWatcher{d: d, told: make(map[bindKey]time.Time)})
	}
	return tasks
}

// How the sweeper paces itself: it takes breath after each piece of a walk.
const (
	walkEvery = 2 * time.Second
	breath    = time.Millisecond
)

// sweeper walks the flows, ends those that are idle for their timeout, and has
// their table grow.
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
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	t.SetReady()
	g := &flowGrower{d: t.d}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.Beats():
			continue
		case <-tick.C:
		}
		if err := g.look(ctx, time.Now(), t.Beats()); err != nil {
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
	tables := []bpf.LBObjects{gen.LBObjects}
	if gen.TwoTables() {
		second := gen.LBObjects
		second.Flows = second.FlowsNext
		tables = append(tables, second)
	}
	entries := uint32(0)
	for i := range tables {
		n, err := flows.Sweep(&tables[i], func() error { return breathe(leased, beats) })
		if leased.Err() != nil {
			return nil // the next walk is another generation's
		}
		if err != nil {
			return err
		}
		entries += n
	}
	d.entries.Store(entries)
	return nil
}

// breathe pauses between two pieces of a walk, and receives from beats.
func breathe(ctx context.Context, beats <-chan struct{}) error {
	select {
	case <-beats:
	default:
	}
	return pause(ctx, breath)
}
