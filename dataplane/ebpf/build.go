// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"errors"
	"fmt"
	"time"

	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/loader"
	"github.com/waggle-lb/waggle/maps/stats"
)

// build fills a new generation with what the one before has, and with snap,
// publishes it, and takes it for this process's. If the one before is this process's, the
// new one is first a larger copy of it. On an error what packets see is as it was.
func (d *Dataplane) build(snap *lb.Snapshot, sizes map[string]uint32) (rep dataplane.Report, err error) {
	prev, err := d.loader.Previous()
	if err != nil {
		return rep, err
	}
	defer func() { err = errors.Join(err, closeConfig(prev)) }()
	for name, n := range d.fixed {
		sizes[name] = n
	}
	g, err := d.loader.NewGeneration(atLeast(sizes, prev))
	if err != nil {
		return rep, err
	}
	t, err := openTables(&g.LBObjects)
	if err != nil {
		return rep, errors.Join(err, g.Close())
	}
	b := &builder{d: d, g: g, prev: prev}
	if d.state != nil && d.state.holds(t) {
		b.own, b.s = d.state, d.state.enlarged(t)
	} else {
		b.s = newState(t, d.log, time.Now)
		b.s.expect(snap)
	}
	rep, err = b.fill(snap)
	if err == nil {
		err = b.publish()
	}
	if err != nil {
		return rep, errors.Join(err, b.s.flush(), b.close(), t.Close(), g.Close())
	}
	if b.own != nil {
		rep = b.s.apply(snap) // what had no room
	}
	return rep, b.close()
}

func closeConfig(c *loader.Config) error {
	if c == nil {
		return nil
	}
	return c.Close()
}

// builder is a generation in the making.
type builder struct {
	d    *Dataplane
	g    *loader.Generation
	s    *state
	prev *loader.Config // nil: there is none
	// own is this process's, which s is a larger copy of; nil: prev is an earlier one's.
	own    *state
	former *formerTables // prev's, while it is read
	// counts and counters are nil unless load is larger than before.
	counts   *stats.Carry
	counters *stats.StatsCarry
	follow   func()
}

func (b *builder) close() error {
	var errs []error
	if b.counts != nil {
		errs = append(errs, b.counts.Close())
	}
	if b.counters != nil {
		errs = append(errs, b.counters.Close())
	}
	if b.former != nil {
		errs = append(errs, b.former.Close())
	}
	return errors.Join(errs...)
}

func (b *builder) fill(snap *lb.Snapshot) (rep dataplane.Report, err error) {
	began, err := clocksOf(b.g)
	if err != nil {
		return rep, err
	}
	var counted uint32
	if from := b.d.loader.Map("load"); from != nil {
		counted = from.MaxEntries()
	}
	b.s.collect(counted)
	now, err := b.d.watcher.Read()
	if err != nil {
		return rep, err
	}
	// before packets see it: the machine's own services must not be refused
	if err := b.s.applyNode(snap.Node()); err != nil {
		return rep, err
	}
	if _, _, err := followAddrs(b.s, now.Addrs); err != nil {
		return rep, err
	}
	if err := b.carryOver(); err != nil {
		return rep, err
	}
	if b.own == nil {
		rep = b.s.apply(snap)
	}
	return rep, errors.Join(rep.Err, b.d.sayBehind(&b.g.LBObjects, b.s.t), b.s.flush(), followDevices(b.s, now, b.d.loader.XDP()), b.d.setClocks(b.g, began))
}

// carryOver takes counts, ids and cursors from the generation that packets see.
func (b *builder) carryOver() (err error) {
	b.follow = func() {}
	if b.g.Former != nil {
		if b.counts, err = stats.OpenCarry(b.g.Former, b.g.Carried, b.g.Load); err != nil {
			return err
		}
		b.counts.Run() // ids are given out by their counts
	}
	if from := b.d.loader.Map("stats"); from != nil && from.MaxEntries() < b.g.Stats.MaxEntries() {
		if b.counters, err = stats.CarryStats(from, b.g.Stats); err != nil {
			return err
		}
	}
	switch {
	case b.own != nil:
		b.follow, err = b.s.fillFrom(b.own)
		return err
	case b.prev == nil:
		b.s.enterLater()
		return nil
	}
	if b.former, err = openFormer(b.prev.Maps); err != nil {
		return fmt.Errorf("read the former generation: %w", err)
	}
	b.follow, err = b.s.carry(b.d.readerOf(b.prev.Maps), b.former)
	return err
}

// publish makes packets see the generation, and ends the one before.
func (b *builder) publish() error {
	d := b.d
	b.follow()
	if b.counts != nil {
		b.counts.Run()
	}
	d.leases.end() // they hold the one before
	old, err := d.loader.Publish(b.g)
	if err != nil {
		return err
	}
	tables := d.tables
	d.gen, d.tables, d.state = b.g, b.s.t, b.s
	b.s.publish()
	if b.counts != nil {
		d.warn("counts of the last configuration", b.countAll())
	}
	if b.counters != nil {
		b.counters.Run()
	}
	if old != nil {
		d.warn("the last configuration", errors.Join(tables.Close(), old.Close()))
	}
	return nil
}

// countAll carries what the programs of before counted to their end. If it fails,
// the next start does it.
func (b *builder) countAll() error {
	if err := loader.Synchronize(); err != nil {
		return err
	}
	b.counts.Run()
	b.s.judge()
	return b.d.loader.Carried()
}

// warn logs what is not worth failing for, once packets see a generation.
func (d *Dataplane) warn(what string, err error) {
	if err != nil {
		d.log.Warn("what another generation replaced is not released", "what", what, "error", err)
	}
}
