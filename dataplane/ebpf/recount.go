// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/maps/flows"
	"github.com/waggle-lb/waggle/maps/stats"
)

const (
	// recountPiece is how many flows are counted between two breaths.
	recountPiece = 2048
	// confirmAfter is how long a difference waits to be seen again. A packet on
	// its way between table and count makes one for less than a microsecond, or
	// as long as a hypervisor takes its CPU away.
	confirmAfter = 200 * time.Millisecond
)

// Recount counts the flows and sockets of all backends and compares. It changes nothing,
// whatever it finds: nothing that may happen to a process or a program makes a
// count differ (the programs run to their end, and count in the same run in which
// they change the table), so a difference is a bug of the programs, which a
// repair would hide. The flow table and the counts die together, too.
func (r *reader) Recount(ctx context.Context) (dataplane.Recount, error) {
	return r.recount(ctx, 0)
}

// recount pauses for breath after every piece. What differs is counted again,
// and is a difference if it still does.
func (r *reader) recount(ctx context.Context, breath time.Duration) (dataplane.Recount, error) {
	began := time.Now()
	out, movable, err := r.compareCounts(ctx, breath)
	if err != nil {
		return dataplane.Recount{}, err
	}
	if out.Difference > 0 {
		if err := pause(ctx, confirmAfter); err != nil {
			return dataplane.Recount{}, err
		}
		again, later, err := r.compareCounts(ctx, breath)
		if err != nil {
			return dataplane.Recount{}, err
		}
		out = confirmed(&out, again, movable.moved(later))
	}
	out.Took = time.Since(began)
	return out, nil
}

// confirmed is second without what first did not have, and without what so many
// sockets may have made that moved between the two.
func confirmed(first *dataplane.Recount, second dataplane.Recount, moved uint64) dataplane.Recount {
	before := make(map[uint32]dataplane.Miscount, len(first.Wrong))
	for _, m := range first.Wrong {
		before[m.ID] = m
	}
	var wrong []dataplane.Miscount
	second.Difference = 0
	for _, m := range second.Wrong {
		b, ok := before[m.ID]
		if ok && b.Backend == m.Backend && min(m.Difference, b.Difference) > moved {
			if moved > 0 && !m.AtLeast {
				m.AtLeast = true
				second.Compared--
				second.Skipped++
			}
			m.Difference = min(m.Difference, b.Difference) - moved
			second.Difference += m.Difference
			wrong = append(wrong, m)
		} else if !m.AtLeast { // it will be seen again, if it is one
			second.Compared--
			second.Skipped++
		}
	}
	second.Wrong = wrong
	return second
}

// census is what one count is put together from, by backend id.
type census struct {
	names         map[uint32]lb.BackendID
	before, after []mark
	found         []dataplane.Load // longer: ids that nobody had before may be there
	// all says that the walk met all sockets: else a backend may have more.
	all bool
}

// compareCounts counts once. What begins, a flow or a socket, counts first in the
// load and then in the connections, and these are read the other way around
// before the table and the sockets are, so that what began meanwhile shows in
// both. movable are the sockets that may go elsewhere without it.
func (r *reader) compareCounts(ctx context.Context, breath time.Duration) (out dataplane.Recount, movable moves, err error) {
	names, last, err := r.counted()
	if err != nil {
		return out, nil, err
	}
	c := census{names: names, before: make([]mark, last+1), after: make([]mark, last+1), all: r.walk.All}
	if err := errors.Join(r.readConnections(c.before), r.readLoad(c.before)); err != nil {
		return out, nil, err
	}
	if c.found, err = r.countFlows(ctx, breath); err != nil {
		return out, nil, err
	}
	if movable, err = r.countSockets(ctx, c.found); err != nil {
		return out, nil, err
	}
	if err := errors.Join(r.readLoad(c.after), r.readConnections(c.after)); err != nil {
		return out, nil, err
	}
	return c.compare(), movable, nil
}

// compare compares every backend that has an id, a count or a flow.
func (c *census) compare() (out dataplane.Recount) {
	for i, found := range c.found {
		id := uint32(i)
		out.Flows += uint64(found.Active + found.Inactive)
		backend, known := c.names[id]
		none := dataplane.Load{}
		if i >= len(c.before) {
			if found != none {
				out.Skipped++ // it is new
			}
			continue
		}
		if !known && found == none && c.before[id].Load == none && c.after[id].Load == none {
			continue
		}
		difference, quiet := c.miscounted(id, found)
		if quiet {
			out.Compared++
		} else {
			out.Skipped++
		}
		if difference > 0 {
			out.Difference += difference
			out.Wrong = append(out.Wrong, dataplane.Miscount{
				Backend: backend, ID: id, Counted: c.after[id].Load, Found: found, Difference: difference, AtLeast: !quiet,
			})
		}
	}
	slices.SortStableFunc(out.Wrong, func(a, b dataplane.Miscount) int { return cmp.Compare(b.Difference, a.Difference) })
	return out
}

// counted returns the backends that have an id, and the last id that has a
// record or a count.
func (r *reader) counted() (names map[uint32]lb.BackendID, last uint32, err error) {
	c, err := r.contents()
	if err != nil {
		return nil, 0, err
	}
	names = make(map[uint32]lb.BackendID, len(c.backends))
	for _, b := range c.backends {
		names[b.id] = lb.BackendID{Service: c.services[b.Service].ID, Addr: b.Addr}
		last = max(last, b.id)
	}
	err = stats.EachLoad(r.load, r.load.MaxEntries()-1, func(id uint32, l bpf.LBBackendLoad) {
		if l.Active != 0 || l.Inactive != 0 {
			last = max(last, id)
		}
	})
	return names, last, err
}

// mark is what the counts of a backend say at one time.
type mark struct {
	dataplane.Load
	connections uint64
}

func (r *reader) readLoad(by []mark) error {
	return stats.EachLoad(r.load, uint32(len(by)-1), func(id uint32, l bpf.LBBackendLoad) {
		by[id].Load = loadOf(l)
	})
}

func (r *reader) readConnections(by []mark) error {
	return stats.EachStats(r.stats, uint32(len(by)-1), func(id uint32, sum bpf.LBBackendStats) {
		by[id].connections = sum.Connections
	})
}

// loadOf reads the word of both counts, to which programs add as one: if the low
// one is below zero it has borrowed from the high one.
func loadOf(l bpf.LBBackendLoad) dataplane.Load {
	out := dataplane.Load{Active: int64(int32(l.Active)), Inactive: int64(int32(l.Inactive))}
	if out.Active < 0 {
		out.Inactive++
	}
	return out
}

// countFlows counts what is in the table, by backend id.
func (r *reader) countFlows(ctx context.Context, breath time.Duration) ([]dataplane.Load, error) {
	found := make([]dataplane.Load, r.load.MaxEntries())
	n := 0
	err := r.flows.EachForward(func(_ *bpf.LBFlowKey, f *bpf.LBFlow) error {
		if active, ok := flows.Counted(f); ok && int(f.Backend) < len(found) {
			if active {
				found[f.Backend].Active++
			} else {
				found[f.Backend].Inactive++
			}
		}
		if n++; n%recountPiece == 0 {
			return pause(ctx, breath)
		}
		return nil
	})
	return found, err
}

// miscounted is what differs of a backend. What the walk may not have met is no
// difference.
func (c *census) miscounted(id uint32, found dataplane.Load) (difference uint64, quiet bool) {
	before, after := c.before[id], c.after[id]
	if c.all || (found.Active >= after.Active && found.Inactive >= after.Inactive) {
		return miscounted(before, after, found)
	}
	found = dataplane.Load{Active: max(found.Active, after.Active), Inactive: max(found.Inactive, after.Inactive)}
	difference, _ = miscounted(before, after, found)
	return difference, false
}

// miscounted compares the flows and sockets that were found of a backend with what its
// counts said before and after.
//
// quiet says that nothing changed meanwhile, so that the counts must be exact. A
// load that is the same again could have changed back: what ended, by what
// began, but then there are new connections; what became inactive, by what
// became active again, but that takes a SYN in a connection that is being closed,
// and it would have to happen to the recount that confirms, too.
//
// Else all that is known is that flows which were there all the time were found,
// and that others are no more than those that began and those that ended.
func miscounted(before, after mark, found dataplane.Load) (difference uint64, quiet bool) {
	if before == after {
		return apart(found.Active, after.Active) + apart(found.Inactive, after.Inactive), true
	}
	had, has, flows := before.Active+before.Inactive, after.Active+after.Inactive, found.Active+found.Inactive
	began := int64(after.connections - before.connections)
	ended := had + began - has
	if began < 0 || ended < 0 {
		return 0, false // the id is another backend's now, or flows moved here from another id
	}
	nearest := min(max(flows, has-began), had+began)
	return apart(flows, nearest), false
}

func apart(a, b int64) uint64 { return uint64(max(a-b, b-a)) }

// pause waits for d, and fails if ctx ends first.
func pause(ctx context.Context, d time.Duration) error {
	if d > 0 {
		select {
		case <-ctx.Done():
		case <-time.After(d):
		}
	}
	return ctx.Err()
}
