// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
)

// A larger load is brought in by steps from which a later process goes on:
//
//	load_former and load_carried are pinned     the load of before, still load
//	config names the larger generation          its programs are on no device
//	load is the larger one                      renamed over the other, in one step
//	the programs are on the devices, one by one they count in the one or the other
//	all counts are carried                      the two pins are removed

// sameSize are the maps that have an element for each backend; stats has one for
// each backend and CPU.
var sameSize = []string{"backends", "backend_ids", "load"}

// adoptCounts takes the maps in which an earlier process's programs count, if
// there are any.
func (l *Loader) adoptCounts() error {
	for _, name := range countMaps {
		pin := filepath.Join(l.opts.PinPath, name)
		m, err := ebpf.LoadPinnedMap(pin, nil)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("open map %s: %w", pin, err)
		}
		l.shared[name] = m
		spec := l.spec.Maps[name].Copy()
		spec.MaxEntries = m.MaxEntries()
		if err := spec.Compatible(m); err != nil {
			return fmt.Errorf("map %s is not as this waggle needs it: %w: run `waggle cleanup --pin-path %s` (it ends the flows)", pin, err, l.opts.PinPath)
		}
	}
	return l.dropCarry()
}

// dropCarry removes the pins of a carry that did not begin.
func (l *Loader) dropCarry() (err error) {
	former, carried, err := l.pinnedCarry()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, former.Close(), carried.Close()) }()
	if former != nil && carried != nil && l.shared["load"] != nil {
		if same, err := sameMap(former, l.shared["load"]); err != nil || !same {
			return err
		}
	}
	return l.removeCarry()
}

func (l *Loader) removeCarry() error {
	var errs []error
	for _, name := range carryMaps {
		if err := os.Remove(filepath.Join(l.opts.PinPath, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("release the last map load: %w", err))
		}
	}
	return errors.Join(errs...)
}

// pinnedCarry opens carryMaps; nil what is not there.
func (l *Loader) pinnedCarry() (former, carried *ebpf.Map, err error) {
	for name, m := range map[string]**ebpf.Map{carryMaps[0]: &former, carryMaps[1]: &carried} {
		*m, err = ebpf.LoadPinnedMap(filepath.Join(l.opts.PinPath, name), nil)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, nil, errors.Join(fmt.Errorf("open map %s: %w", name, err), former.Close(), carried.Close())
		}
	}
	return former, carried, nil
}

// lasting are the shared maps that a generation of these sizes uses, which it makes
// those of the maps that count. A carry that is under way is to end before load may
// become larger again.
func (l *Loader) lasting(spec *ebpf.CollectionSpec) (map[string]*ebpf.Map, error) {
	out := maps.Clone(l.shared)
	if have := l.shared["load"]; have != nil {
		if n := have.MaxEntries(); n >= spec.Maps["load"].MaxEntries || l.carrying() {
			for _, name := range sameSize {
				spec.Maps[name].MaxEntries = n
			}
		} else {
			delete(out, "load")
		}
	}
	if err := bpf.Size(spec); err != nil {
		return nil, err
	}
	// Of another size it is of another load, too: a process died between the two.
	if have := l.shared["stats"]; have != nil && have.MaxEntries() != spec.Maps["stats"].MaxEntries {
		delete(out, "stats")
	}
	return out, nil
}

func (l *Loader) carrying() bool {
	_, err := os.Lstat(filepath.Join(l.opts.PinPath, carryMaps[0]))
	return err == nil
}

// carry finds what the generation's load has to get from another.
func (l *Loader) carry(g *Generation) (err error) {
	have := l.shared["load"]
	switch {
	case have == nil:
		return nil
	case have.MaxEntries() == g.Load.MaxEntries():
		g.Former, g.Carried, err = l.pinnedCarry() // a process died over it, if any
		return err
	}
	spec := l.spec.Maps["load"].Copy()
	spec.MaxEntries = have.MaxEntries()
	if g.Carried, err = ebpf.NewMap(spec); err == nil {
		g.Former, err = have.Clone()
	}
	if err != nil {
		return fmt.Errorf("carry the counts of map load over: %w", err)
	}
	return nil
}

// pinCarry pins what a larger load has to get.
func (l *Loader) pinCarry(g *Generation) error {
	if g.Former == nil || l.carrying() {
		return nil
	}
	for name, m := range map[string]*ebpf.Map{carryMaps[0]: g.Former, carryMaps[1]: g.Carried} {
		if err := m.Pin(filepath.Join(l.opts.PinPath, name)); err != nil {
			return errors.Join(fmt.Errorf("pin map %s: %w", name, err), l.removeCarry())
		}
	}
	return nil
}

// keepCounts makes the maps in which the generation's programs count those that
// last.
func (l *Loader) keepCounts(g *Generation) error {
	var errs []error
	made := map[string]*ebpf.Map{"load": g.Load, "stats": g.Stats}
	for _, name := range countMaps { // load first: lasting
		m, old := made[name], l.shared[name]
		if old != nil && old.MaxEntries() == m.MaxEntries() {
			continue
		}
		kept, err := m.Clone()
		if err != nil {
			return errors.Join(append(errs, err)...)
		}
		l.shared[name] = kept
		errs = append(errs, pinOver(kept, filepath.Join(l.opts.PinPath, name)), old.Close())
	}
	return errors.Join(errs...)
}

// pinOver pins a map in the place of another, in one step.
func pinOver(m *ebpf.Map, pin string) error {
	next := pin + nextSuffix
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("pin map %s: %w", pin, err)
	}
	if err := errors.Join(m.Pin(next), os.Rename(next, pin)); err != nil {
		return fmt.Errorf("pin map %s: %w", pin, err)
	}
	return nil
}

// nextSuffix ends the name of what is about to take another's.
const nextSuffix = "-next"

// countPins are all pins of countMaps and carryMaps.
func countPins() []string {
	out := slices.Concat(countMaps, carryMaps)
	for _, name := range countMaps {
		out = append(out, name+nextSuffix)
	}
	return out
}

// Carried says that the load of the published generation has all counts.
func (l *Loader) Carried() error {
	g := l.current
	err := errors.Join(g.Former.Close(), g.Carried.Close(), l.removeCarry())
	g.Former, g.Carried = nil, nil
	return err
}
