// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
)

// The flow table grows by a second one. Each step leaves a state in which all
// programs that are attached agree, and from which a later process goes on:
//
//	flows_next is pinned        programs that know both tables are loaded, and
//	                            attached one by one: they do as the others do
//	growth says BOTH            a new key is marked in flows and goes to flows_next
//	growth says NEXT            a new key goes to flows_next; what is in flows is moved
//	flows is empty              programs that know flows_next alone are attached,
//	                            one by one: they do as the others do
//	flows_next becomes flows    renamed over it, in one step
//
// Between two steps no program of the one before is running any more.
const (
	flowsMap  = "flows"
	nextMap   = "flows_next"
	growthMap = "growth"
)

// GrowthStep is a step of a growth that was done.
type GrowthStep string

// The steps, in order.
const (
	GrowthPinned  GrowthStep = "the second table is pinned"
	GrowthKnown   GrowthStep = "all programs know both tables"
	GrowthBoth    GrowthStep = "new keys are decided on in both tables"
	GrowthNext    GrowthStep = "new keys go to the second table"
	GrowthEmpty   GrowthStep = "the first table is empty"
	GrowthSwapped GrowthStep = "all programs know the second table alone"
	GrowthRenamed GrowthStep = "the second table has taken the first one's name"
)

// GrowthSteps are all of them.
var GrowthSteps = []GrowthStep{GrowthPinned, GrowthKnown, GrowthBoth, GrowthNext, GrowthEmpty, GrowthSwapped, GrowthRenamed}

// done tells a test of a step, which may end the growth there.
func (l *Loader) done(s GrowthStep) error {
	if l.opts.Interrupt == nil {
		return nil
	}
	return l.opts.Interrupt(s)
}

// Growing reports whether there are two flow tables. A process that finds two
// has to go on with BeginGrowth.
func (l *Loader) Growing() bool { return l.shared[nextMap] != nil }

// TwoTables reports whether the generation's programs know two flow tables.
func (g *Generation) TwoTables() bool { return g.growing }

// adoptGrowth takes what a process left that died while the table grew.
func (l *Loader) adoptGrowth() error {
	pin := filepath.Join(l.opts.PinPath, nextMap)
	m, err := ebpf.LoadPinnedMap(pin, nil)
	if errors.Is(err, fs.ErrNotExist) {
		// it may have died when all was done but this
		return l.setPhase(bpf.LBGrowthPhaseGROWTH_OLD)
	}
	if err != nil {
		return fmt.Errorf("open map %s: %w", pin, err)
	}
	if err := l.checkAdopted(nextMap, m); err != nil {
		return errors.Join(err, m.Close())
	}
	l.shared[nextMap] = m
	return nil
}

func (l *Loader) growth() (g bpf.LBGrowthState, err error) {
	if err := l.shared[growthMap].Lookup(uint32(0), &g); err != nil {
		return g, fmt.Errorf("read map %s: %w", growthMap, err)
	}
	return g, nil
}

func (l *Loader) setPhase(p bpf.LBGrowthPhase) error {
	return l.changeGrowth(func(g *bpf.LBGrowthState) { g.Phase = uint32(p) })
}

// changeGrowth writes nothing if nothing changes.
func (l *Loader) changeGrowth(change func(*bpf.LBGrowthState)) error {
	before, err := l.growth()
	if err != nil {
		return err
	}
	g := before
	if change(&g); g == before {
		return nil
	}
	if err := l.shared[growthMap].Put(uint32(0), g); err != nil {
		return fmt.Errorf("write map %s: %w", growthMap, err)
	}
	return nil
}

// ReserveRoom keeps the room of the second table for what is moved there, until a
// time in jiffies of 64 bits; 0: no longer.
func (l *Loader) ReserveRoom(until uint64) error {
	return l.changeGrowth(func(g *bpf.LBGrowthState) { g.ReservedUntil = until })
}

// MakeNext makes a flow table of so many entries for BeginGrowth. It may run
// beside other methods, as it takes as long as memory takes to be cleared.
func (l *Loader) MakeNext(entries uint32) (*ebpf.Map, error) {
	spec := l.spec.Maps[flowsMap].Copy()
	spec.Name, spec.MaxEntries = nextMap, entries
	m, err := ebpf.NewMap(spec)
	if err != nil {
		return nil, sizeError(nextMap, entries, err)
	}
	return m, nil
}

// BeginGrowth makes new flows go to a second table: next, which the loader takes
// over, or the one that there is already if next is nil. A configuration is
// published. After an error the flows are where they were, and BeginGrowth may be
// called again, with nil if Growing.
func (l *Loader) BeginGrowth(next *ebpf.Map) error {
	if next != nil {
		if err := next.Pin(filepath.Join(l.opts.PinPath, nextMap)); err != nil {
			return errors.Join(fmt.Errorf("pin map %s: %w", nextMap, err), next.Close())
		}
		l.shared[nextMap] = next
	}
	if err := l.done(GrowthPinned); err != nil {
		return err
	}
	if !l.current.growing {
		if err := l.reload(l.shared, true); err != nil {
			return err
		}
	}
	if err := errors.Join(l.allUpdated(), Synchronize(), l.done(GrowthKnown)); err != nil {
		return err
	}
	g, err := l.growth()
	if err != nil {
		return err
	}
	if g.Phase == uint32(bpf.LBGrowthPhaseGROWTH_OLD) {
		if err := l.enter(bpf.LBGrowthPhaseGROWTH_BOTH, GrowthBoth); err != nil {
			return err
		}
	}
	return l.enter(bpf.LBGrowthPhaseGROWTH_NEXT, GrowthNext)
}

// enter begins a phase, and waits until no program runs in the one before.
func (l *Loader) enter(p bpf.LBGrowthPhase, s GrowthStep) error {
	if err := l.setPhase(p); err != nil {
		return err
	}
	return errors.Join(Synchronize(), l.done(s))
}

// EndGrowth makes the second table the only one. The first must be empty. After
// an error it may be called again, after BeginGrowth.
func (l *Loader) EndGrowth() error {
	if err := l.done(GrowthEmpty); err != nil {
		return err
	}
	next := l.shared[nextMap]
	only := make(map[string]*ebpf.Map, len(l.shared))
	for name, m := range l.shared {
		only[name] = m
	}
	delete(only, nextMap)
	only[flowsMap] = next
	if err := l.reload(only, false); err != nil {
		return err
	}
	if err := errors.Join(Synchronize(), l.done(GrowthSwapped)); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(l.opts.PinPath, nextMap), filepath.Join(l.opts.PinPath, flowsMap)); err != nil {
		return fmt.Errorf("the flow table has grown, but: %w", err)
	}
	if err := l.done(GrowthRenamed); err != nil {
		return err
	}
	old := l.shared[flowsMap]
	l.shared = only
	l.spec.Maps[flowsMap].MaxEntries = next.MaxEntries()
	return errors.Join(old.Close(), l.setPhase(bpf.LBGrowthPhaseGROWTH_OLD))
}

// reload points all hooks at new programs that use these shared maps, and all the
// other maps of the published configuration, variables included.
func (l *Loader) reload(shared map[string]*ebpf.Map, growing bool) error {
	g := l.current
	maps := g.own()
	for name, m := range shared {
		maps[name] = m
	}
	spec := l.spec.Copy()
	var next Generation
	if err := load(spec, maps, growing, &next.LBPrograms); err != nil {
		return err
	}
	l.hooks.swap(&next)
	l.sockets.swap(&next)
	old := g.LBPrograms
	g.LBPrograms, g.growing = next.LBPrograms, growing
	if err := errors.Join(old.Close(), g.take(&g.Flows, shared[flowsMap]), g.take(&g.FlowsNext, shared[nextMap])); err != nil {
		return err
	}
	return l.allUpdated()
}

// allUpdated fails while a hook keeps programs of before.
func (l *Loader) allUpdated() error {
	for at := range l.hooks.stale {
		return fmt.Errorf("device %s keeps the programs of before: the flow table does not grow until that is mended", l.hooks.name(at))
	}
	return nil
}

// take puts a handle of its own for a map in the place of another; nil: none.
func (g *Generation) take(at **ebpf.Map, m *ebpf.Map) error {
	old := *at
	*at = nil
	if m != nil {
		clone, err := m.Clone()
		if err != nil {
			return fmt.Errorf("take map %s: %w", m, err)
		}
		*at = clone
	}
	return old.Close()
}

// Mover is the program that moves entries to the second table, and what it goes
// by: bpf/move.h.
type Mover struct {
	MovePiece    *ebpf.Program  `ebpf:"move_piece"`
	Keys         *ebpf.Map      `ebpf:"piece_keys"`
	PieceEntries *ebpf.Variable `ebpf:"piece_entries"`
	Moved        *ebpf.Variable `ebpf:"moved"`
	Later        *ebpf.Variable `ebpf:"move_later"`
	Full         *ebpf.Variable `ebpf:"move_full"`
}

// NewMover loads it. The caller closes it.
func (l *Loader) NewMover() (*Mover, error) {
	maps := l.current.own()
	for name, m := range l.shared {
		maps[name] = m
	}
	m := &Mover{}
	spec := l.spec.Copy()
	spec.Programs["move_piece"] = l.mover.Copy()
	return m, load(spec, maps, true, m)
}

// Close releases the handles.
func (m *Mover) Close() error { return errors.Join(m.MovePiece.Close(), m.Keys.Close()) }
