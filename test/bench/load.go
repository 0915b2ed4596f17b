// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"text/tabwriter"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/internal/packet"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/maps/backends"
)

// size is how large the maps are.
type size struct {
	flows    uint32 // entries of the flow table: a flow has two
	services uint32 // more, the configuration maps are larger too
}

// The flow table is as large as growth makes it, which doubles it at four
// fifths: half full with 65,536 flows, or with a million.
var (
	small = size{flows: 1 << 18}
	large = size{flows: 1 << 22}
	many  = size{flows: 1 << 18, services: 100_000}
)

// tables has the programs loaded, by the size of their maps.
type tables struct {
	options
	world *world
	open  map[size]*bench
}

func (t *tables) of(s size) (*bench, error) {
	if b := t.open[s]; b != nil {
		return b, nil
	}
	b, err := newBench(t.options, t.world, s)
	if err == nil {
		t.open[s] = b
	}
	return b, err
}

func (t *tables) close() {
	for _, b := range t.open {
		b.close()
	}
}

// bench is one set of maps, and the programs on it.
type bench struct {
	options
	size  size
	world *world
	lb    bpf.LBObjects
	// withXDP are programs that know that devices have XDP, on the same maps.
	withXDP bpf.LBPrograms
	wrap    wrapObjects
	// backends are those of lb.
	backends *backends.Table
	// installed are the programs behind wrappers.
	installed map[*ebpf.Map]*ebpf.Program
	ids       uint32 // of backends: those below are in use
}

func newBench(o options, w *world, s size) (*bench, error) {
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("raise the memlock limit (run as root): %w", err)
	}
	b := &bench{options: o, size: s, world: w, installed: make(map[*ebpf.Map]*ebpf.Program), ids: 17}
	if err := errors.Join(b.load(), b.loadWrap()); err != nil {
		b.close()
		return nil, fmt.Errorf("load the programs (run as root): %w", err)
	}
	if err := errors.Join(b.fill(), w.fill(b.lb.Devices), b.shuffle()); err != nil {
		b.close()
		return nil, err
	}
	return b, nil
}

func (b *bench) spec() (*ebpf.CollectionSpec, error) {
	spec, err := bpf.LoadLB()
	if err != nil {
		return nil, err
	}
	spec.Maps["flows"].MaxEntries = b.size.flows
	if b.size.services > 0 {
		for name, n := range map[string]uint32{"services": 1 << 17, "vips": 1 << 18, "backends": 1 << 18, "backend_ids": 1 << 18, "load": 1 << 18} {
			spec.Maps[name].MaxEntries = n
		}
	}
	bpf.RoomForBits(spec)
	if err := bpf.Size(spec); err != nil {
		return nil, err
	}
	return spec, bpf.Choose(spec)
}

func (b *bench) load() error {
	spec, err := b.spec()
	if err != nil {
		return err
	}
	if err := spec.LoadAndAssign(&b.lb, nil); err != nil {
		return err
	}
	if b.backends, err = backends.Open(b.lb.Backends, b.lb.BackendIds, b.lb.IdsFactor); err != nil {
		return err
	}
	if spec, err = b.spec(); err != nil {
		return err
	}
	if err := spec.Variables["with_xdp"].Set(true); err != nil {
		return err
	}
	maps := make(map[string]*ebpf.Map)
	v := reflect.ValueOf(b.lb.LBMaps)
	for i := range v.NumField() {
		maps[v.Type().Field(i).Tag.Get("ebpf")] = v.Field(i).Interface().(*ebpf.Map)
	}
	for name := range maps { // variables: their own, all the same but one
		if spec.Maps[name] == nil {
			delete(maps, name)
		}
	}
	return spec.LoadAndAssign(&b.withXDP, &ebpf.CollectionOptions{MapReplacements: maps})
}

// loadWrap gives the wrappers the programs' flow table.
func (b *bench) loadWrap() error {
	spec, err := loadWrap()
	if err != nil || b.lb.Flows == nil {
		return err
	}
	spec.Maps["flows"].MaxEntries = b.size.flows
	return spec.LoadAndAssign(&b.wrap, &ebpf.CollectionOptions{MapReplacements: map[string]*ebpf.Map{"flows": b.lb.Flows}})
}

func (b *bench) close() {
	if b.backends != nil {
		b.backends.Close()
	}
	b.lb.Close()
	b.withXDP.Close()
	b.wrap.Close()
}

// shuffle puts the free elements of the flow table out of order, as time does.
func (b *bench) shuffle() error {
	f := families[0]
	data, err := frame(f, lb.TCP, f.vip)
	if err != nil {
		return err
	}
	s := scene{f: f, other: f.vip, port: 80, flows: int(b.size.flows / 4), flags: packet.SYN}
	if err := b.open(opening{scene: s, hook: b.ingress(), prog: b.lb.TcIngress, frame: data}); err != nil {
		return err
	}
	return b.clear()
}

// printPrograms says how large the programs are: what the verifier walked, what
// is left of them once it rewrote them, and what that is in bytes of code.
func (b *bench) printPrograms() error {
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "\nPROGRAM\tPROCESSED INSTRUCTIONS\tTRANSLATED\tJITED BYTES\t")
	for _, set := range []struct {
		programs bpf.LBPrograms
		suffix   string
	}{{b.lb.LBPrograms, ""}, {b.withXDP, ", with XDP"}} {
		v := reflect.ValueOf(set.programs)
		for i := range v.NumField() {
			p := v.Field(i).Interface().(*ebpf.Program)
			name := v.Type().Field(i).Tag.Get("ebpf")
			if tc := p.Type() == ebpf.SchedCLS; (p.Type() == ebpf.XDP) != (set.suffix != "") && !tc {
				continue
			}
			info, err := p.Info()
			if err != nil {
				return err
			}
			processed, _ := info.VerifiedInstructions()
			translated, _ := info.TranslatedSize()
			jited, _ := info.JitedSize()
			if translated > 16 { // else the kernel takes the other of a pair
				fmt.Fprintf(w, "%s\t%d\t%d\t%d\t\n", name+set.suffix, processed, translated/8, jited)
			}
		}
	}
	return w.Flush()
}
