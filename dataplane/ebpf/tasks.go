// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/waggle-lb/waggle/internal/nlx"
	"github.com/waggle-lb/waggle/internal/task"
	"github.com/waggle-lb/waggle/maps/flows"
	"github.com/waggle-lb/waggle/maps/nodeaddrs"
)

// Tasks returns what has to run beside Apply: the one that follows devices and
// addresses, the one that ends idle flows, the one that says what runs out, the
// one that audits the counts, and the one that ends what another layout left.
func (d *Dataplane) Tasks() []task.Task {
	return []task.Task{&follower{d: d}, &sweeper{d: d}, &shortageWatcher{d: d}, &auditor{d: d}, &drainer{d: d, after: d.drain}}
}

// follower brings the programs to the devices that should have them, as they
// come and go, and keeps node_addrs and what devices are masqueraded with.
type follower struct {
	task.Readiness
	d *Dataplane
}

func (*follower) String() string { return "devices and addresses" }

func (t *follower) Run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-t.d.published.Ready():
	}
	var last string
	return t.d.watcher.Run(ctx, func(s nlx.State) {
		err := t.d.follow(s)
		switch text := fmt.Sprint(err); {
		case err == nil:
			t.SetReady()
			last = ""
		case text != last: // the same again, at every audit, says nothing new
			t.d.log.Error("some devices or addresses are not followed", "error", err)
			last = text
		}
	})
}

func (d *Dataplane) follow(s nlx.State) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	err := errors.Join(nodeaddrs.Table{Map: d.gen.NodeAddrs}.Sync(s.Addrs), followDevices(d.tables, d.state, s))
	changes, derr := d.loader.SetDevices(s.Links)
	for _, c := range changes {
		hook := "ingress"
		if c.Egress {
			hook = "egress"
		}
		if c.Attached {
			d.log.Info("program attached", "device", c.Device, "hook", hook)
		} else {
			d.log.Info("program detached", "device", c.Device, "hook", hook)
		}
	}
	return errors.Join(err, derr)
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
