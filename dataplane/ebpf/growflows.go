// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	cilium "github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/loader"
	"github.com/waggle-lb/waggle/maps/mmap"
)

const (
	// lookEvery is how often the flow table is looked at.
	lookEvery = 100 * time.Millisecond
	// movePiece is how many entries are moved between two breaths: a millisecond,
	// or two where the table is not in a cache.
	movePiece = 512
	// reserved is how long room is kept for what waits to be moved: a walk that makes
	// it and one that moves, even if the agent gets little of a CPU.
	reserved = 10 * time.Second
	// growRetry is the pause after a growth that failed.
	growRetry = time.Minute
	// entriesAFlow is how many a flow has at most: to judge by how many began
	// since the last walk whether another is due.
	entriesAFlow = 4
)

// flowGrower decides when the flow table grows, and says when it is nearly full.
type flowGrower struct {
	d       *Dataplane
	walked  time.Time // the last walk
	began   uint64    // how many flows had begun then
	notYet  time.Time // until when a growth that failed is not tried again
	pressed bool      // it was said
}

// look walks the flow table if that is due, by time or by how many flows began,
// and has it grow.
func (g *flowGrower) look(ctx context.Context, now time.Time, beats <-chan struct{}) error {
	if g.d.growing() { // a process before this one began it, or it failed
		return g.grow(ctx, 0, now, beats)
	}
	began, err := g.d.flowsBegun()
	if err != nil {
		return err
	}
	entries := uint64(g.d.entries.Load()) + entriesAFlow*(began-g.began)
	if now.Sub(g.walked) < walkEvery && g.d.grownSize(uint32(min(entries, 1<<31))) == 0 {
		return nil
	}
	g.walked, g.began = now, began
	if err := g.d.sweep(ctx, beats); err != nil {
		return err
	}
	g.note(g.d.entries.Load())
	if size := g.d.grownSize(g.d.entries.Load()); size > 0 {
		return g.grow(ctx, size, now, beats)
	}
	return nil
}

// grow lets the table grow, unless that failed just now.
func (g *flowGrower) grow(ctx context.Context, size uint32, now time.Time, beats <-chan struct{}) error {
	if now.Before(g.notYet) {
		return nil
	}
	g.d.log.Info("the flow table grows", "map", "flows", "entries", g.d.entries.Load(), "size", size)
	done, err := g.d.growFlows(ctx, size, beats)
	switch {
	case ctx.Err() != nil:
		return nil // the next process goes on with it
	case err != nil:
		g.notYet = now.Add(growRetry)
		return fmt.Errorf("the flow table does not grow: %w", err)
	}
	g.d.log.Info("the flow table has grown", "map", "flows", "size", done.size, "moved", done.moved,
		"took", done.took.Round(time.Millisecond), "longest_piece", done.longest.Round(time.Microsecond))
	return nil
}

// note says once that the table is nearly as full as it may become.
func (g *flowGrower) note(entries uint32) {
	g.d.mu.Lock()
	most := max(g.d.flowsMax, g.d.flowsLimit())
	g.d.mu.Unlock()
	full := uint64(entries) * 100 / uint64(most)
	if full >= growAt && !g.pressed {
		g.d.log.Warn("the flow table is nearly full: when it is new flows are refused, what is in it goes on", "map", "flows", "entries", entries, "size", most, "flag", "--flows-max")
		g.pressed = true
	} else if full < growAt-10 {
		g.pressed = false
	}
}

// flowsBegun is how many flows ever began.
func (d *Dataplane) flowsBegun() (uint64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	ring, err := ringOf(d.loader.Map("half_open_ends"))
	return ring.Next, err
}

// flowsLimit is how many entries the flow table has room for. Under mu.
func (d *Dataplane) flowsLimit() uint32 {
	if next := d.loader.Map("flows_next"); next != nil {
		return next.MaxEntries()
	}
	return d.loader.Map("flows").MaxEntries()
}

// grownSize is the size to which the flow table is to grow, with so many entries;
// 0: it stays as it is.
func (d *Dataplane) grownSize(entries uint32) uint32 {
	d.mu.Lock()
	defer d.mu.Unlock()
	limit := d.flowsLimit()
	if d.loader.Growing() || limit >= d.flowsMax || uint64(entries)*100 < uint64(limit)*growAt {
		return 0
	}
	return min(2*limit, d.flowsMax)
}

// growth is what is said of one that is done.
type growth struct {
	size    uint32 // of the table now
	moved   uint64
	longest time.Duration // of the pieces: for so long it held a CPU
	took    time.Duration
}

// growFlows makes the flow table one of size entries, or goes on with a growth
// that a process before this one began. It returns when all flows are in the
// larger one; that may need flows to end, if more began meanwhile than it holds.
func (d *Dataplane) growFlows(ctx context.Context, size uint32, beats <-chan struct{}) (g growth, err error) {
	began := time.Now()
	if err := d.beginGrowth(size); err != nil {
		return g, err
	}
	if err := d.moveFlows(ctx, &g, beats); err != nil {
		return g, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.leases.end() // they go by the first table
	if err := d.loader.EndGrowth(); err != nil {
		return g, err
	}
	g.size, g.took = d.flowsLimit(), time.Since(began)
	return g, nil
}

func (d *Dataplane) beginGrowth(size uint32) error {
	var next *cilium.Map
	if !d.growing() {
		var err error
		// without the lock: a configuration is not to wait until the memory is cleared
		if next, err = d.loader.MakeNext(size); err != nil {
			return err
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.leases.end() // they know of one table
	return d.loader.BeginGrowth(next)
}

func (d *Dataplane) growing() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.loader.Growing()
}

// moveFlows walks the first table until a walk finds nothing left to be moved.
func (d *Dataplane) moveFlows(ctx context.Context, g *growth, beats <-chan struct{}) (err error) {
	d.mu.Lock()
	m, err := newMover(d.loader)
	d.mu.Unlock()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	for {
		w, err := m.walk(func() error { return breathe(ctx, beats) })
		if err != nil {
			return fmt.Errorf("move flows to the larger table: %w", err)
		}
		g.moved += uint64(w.moved)
		g.longest = max(g.longest, w.longest)
		if err := d.reserveRoom(0); err != nil {
			return err
		}
		if w.moved+w.later+w.full == 0 {
			return nil
		}
		// who held an entry as it was moved lets it go before the next walk
		if err := loader.Synchronize(); err != nil {
			return err
		}
		if w.full > 0 {
			if err := d.makeRoom(ctx, w.full, beats); err != nil {
				return err
			}
		}
	}
}

// reserveRoom keeps the larger table's room for so long from new flows; 0: no longer.
func (d *Dataplane) reserveRoom(long time.Duration) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if long == 0 {
		return d.loader.ReserveRoom(0)
	}
	now, err := clocksOf(d.gen)
	if err != nil {
		return err
	}
	return d.loader.ReserveRoom(now.Jiffies + uint64(long.Seconds())*uint64(measuredHz.Load()))
}

// makeRoom waits, as the larger table is full too, and ends what is due in both. New
// flows, which would take that room as it is made, have none until it was offered to
// what waits.
func (d *Dataplane) makeRoom(ctx context.Context, waiting uint32, beats <-chan struct{}) error {
	d.log.Warn("the larger flow table is full too: flows wait in the smaller one for others to end", "map", "flows_next", "waiting", waiting, "flag", "--flows-max")
	if err := pause(ctx, walkEvery); err != nil {
		return err
	}
	if err := errors.Join(d.flushLost(), d.reserveRoom(reserved)); err != nil {
		return err
	}
	if err := d.walk(ctx, beats); err != nil {
		return fmt.Errorf("walk both flow tables: %w", err)
	}
	return nil
}

// mover moves entries from the flow table to the larger one.
type mover struct {
	*loader.Mover
	table *cilium.Map
	keys  []bpf.LBFlowKey
	close func() error
}

func newMover(l *loader.Loader) (_ *mover, err error) {
	m := &mover{}
	if m.Mover, err = l.NewMover(); err != nil {
		return nil, err
	}
	memory, err := mmap.Open(m.Keys)
	if err != nil {
		return nil, errors.Join(err, m.Mover.Close())
	}
	if m.table, err = l.Map("flows").Clone(); err != nil {
		return nil, errors.Join(err, memory.Close(), m.Mover.Close())
	}
	m.keys = mmap.Slice[bpf.LBFlowKey](memory)[:movePiece]
	m.close = func() error { return errors.Join(m.table.Close(), memory.Close(), m.Mover.Close()) }
	return m, nil
}

func (m *mover) Close() error { return m.close() }

// walked is what became of the entries that a walk met.
type walked struct {
	moved, later, full uint32
	longest            time.Duration
}

// walk moves what it meets, in pieces; piece is called after each. What was there
// all the time was met, as nothing is inserted any more, and buckets are read as a
// whole.
func (m *mover) walk(piece func() error) (w walked, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before, err := m.counts()
	if err != nil {
		return w, err
	}
	values := make([]bpf.LBFlow, len(m.keys))
	var cursor cilium.MapBatchCursor
	for end := false; !end; {
		n, err := m.table.BatchLookup(&cursor, m.keys, values, nil)
		if end = errors.Is(err, cilium.ErrKeyNotExist); err != nil && !end {
			return w, err
		}
		if err := m.PieceEntries.Set(uint32(n)); err != nil {
			return w, err
		}
		began := threadTime()
		if _, err := m.MovePiece.Run(&cilium.RunOptions{}); err != nil {
			return w, err
		}
		w.longest = max(w.longest, threadTime()-began)
		if err := piece(); err != nil {
			return w, err
		}
	}
	after, err := m.counts()
	w.moved, w.later, w.full = after.moved-before.moved, after.later-before.later, after.full-before.full
	return w, err
}

func (m *mover) counts() (w walked, err error) {
	err = errors.Join(m.Moved.Get(&w.moved), m.Later.Get(&w.later), m.Full.Get(&w.full))
	return w, err
}

// threadTime is how long the calling thread has had a CPU; 0 if that is not known.
func threadTime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}
