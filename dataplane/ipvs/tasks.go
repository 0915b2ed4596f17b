// SPDX-License-Identifier: Apache-2.0

package ipvs

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/internal/nlx"
	"github.com/waggle-lb/waggle/internal/task"
	"github.com/waggle-lb/waggle/lb"
)

// Tasks returns what has to run beside Apply: the one that follows the machine's
// addresses, and the one that removes what has no connections any more.
func (d *Dataplane) Tasks() []task.Task { return []task.Task{&follower{d: d}, &drainer{d: d}} }

// drainEvery is how often servers that are leaving are looked at. It costs one
// list of servers for each virtual service that has some.
const drainEvery = 10 * time.Second

// drainer removes servers, and virtual services, with their last connection.
type drainer struct {
	task.Readiness
	task.Pulse
	d *Dataplane
}

func (*drainer) String() string { return "drainer" }

func (t *drainer) Run(ctx context.Context) error {
	tick := time.NewTicker(drainEvery)
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
		if err := t.d.drain(); err != nil {
			t.d.log.Error("servers that leave are not removed", "error", err)
		}
	}
}

func (d *Dataplane) drain() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.state.drain()
}

// follower follows the addresses of other devices than ours: at some of them node
// ports are served, and at all of them the machine's own ports are its own.
type follower struct {
	task.Readiness
	d *Dataplane
}

func (*follower) String() string { return "address follower" }

// calm is how long addresses that come in a burst are waited for.
const calm = 50 * time.Millisecond

func (t *follower) Run(ctx context.Context) error {
	events := make(chan func(map[netip.Addr]int), 64)
	send := func(f func(map[netip.Addr]int)) {
		select {
		case events <- f:
		case <-ctx.Done():
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		own := t.d.machine.device.Index()
		t.d.watcher.RunAddresses(ctx, func(list []nlx.Address) {
			send(func(m map[netip.Addr]int) { count(m, list, own) })
		}, func(a nlx.Address) {
			if a.Device != own {
				send(func(m map[netip.Addr]int) { change(m, a) })
			}
		})
	}()
	defer func() { <-done }()
	t.SetReady()
	for {
		select {
		case <-ctx.Done():
			return nil
		case first := <-events:
			t.d.follow(ctx, first, events)
		}
	}
}

// count makes m what the list says.
func count(m map[netip.Addr]int, list []nlx.Address, own int) {
	clear(m)
	for _, a := range list {
		if a.Device != own {
			m[a.Addr]++
		}
	}
}

func change(m map[netip.Addr]int, a nlx.Address) {
	switch {
	case !a.Gone:
		m[a.Addr]++
	case m[a.Addr] <= 1:
		delete(m, a.Addr)
	default:
		m[a.Addr]--
	}
}

// follow takes the events of a burst, and changes what depends on addresses.
func (d *Dataplane) follow(ctx context.Context, first func(map[netip.Addr]int), more <-chan func(map[netip.Addr]int)) {
	d.mu.Lock()
	next := maps.Clone(d.addresses)
	d.mu.Unlock()
	first(next)
	timer := time.NewTimer(calm)
	defer timer.Stop()
	for waiting := true; waiting; {
		select {
		case f := <-more:
			f(next)
		case <-timer.C:
			waiting = false
		case <-ctx.Done():
			return
		}
	}
	if err := d.setAddresses(next); err != nil {
		d.log.Error("services do not follow the machine's addresses: the next change of theirs tries again", "error", err)
	}
}

// setAddresses says which addresses other devices than ours have.
func (d *Dataplane) setAddresses(next map[netip.Addr]int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	before, ports := d.addresses, d.nodeAddresses()
	d.addresses = next
	for a := range before {
		if next[a] == 0 {
			d.followed++
			if err := d.state.setOther(a, false); err != nil {
				return err
			}
		}
	}
	for a := range next {
		if before[a] == 0 {
			d.followed++
			if err := d.state.setOther(a, true); err != nil {
				return err
			}
		}
	}
	if slices.Equal(ports, d.nodeAddresses()) || d.fresh {
		return nil
	}
	return d.moveNodePorts()
}

// moveNodePorts serves node ports at the addresses that there are now.
func (d *Dataplane) moveNodePorts() error {
	for svc := range d.applied.All() {
		if hasNodePort(svc) {
			d.pending[svc.ID] = true
		}
	}
	b := d.newBatch(d.applied, &lb.Diff{})
	maps.Copy(b.refused, d.state.change(b.targets))
	for id, err := range b.refused {
		d.log.Error("node ports do not follow the machine's addresses", "service", id.String(), "error", err)
	}
	return d.remember(d.applied, b)
}

// Status says what is known without work.
func (d *Dataplane) Status() (dataplane.Status, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := statusOf(Place{Device: d.machine.device.Name()})
	s.Followed = map[string]uint64{"address": d.followed}
	return s, nil
}
