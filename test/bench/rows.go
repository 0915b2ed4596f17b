// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/internal/packet"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/lb/sched"
)

var flowSets = []int{1, 1 << 10, 1 << 16}

// scenes are what is measured, in the order of the table.
func (b *bench) scenes() (names []string, run []func() ([]row, error)) {
	add := func(name string, f func() ([]row, error)) {
		if b.only.MatchString(name) {
			names, run = append(names, name), append(run, f)
		}
	}
	add("floors", b.floors)
	for _, f := range families {
		for _, proto := range []lb.Protocol{lb.TCP, lb.UDP} {
			for _, n := range flowSets {
				add(fmt.Sprintf("established %s %s %d", proto, f.name, n), func() ([]row, error) { return b.established(f, proto, n) })
			}
			add(fmt.Sprintf("new %s %s", proto, f.name), func() ([]row, error) { return b.newFlows(f, proto) })
		}
		add("not ours "+f.name, func() ([]row, error) { return b.notOurs(f) })
	}
	for _, s := range sched.Names() {
		add("scheduler "+s, func() ([]row, error) { return b.schedulers(s) })
	}
	add("masqueraded TCP v4", b.masquerade)
	add("direct to a backend v4", b.direct)
	return names, run
}

func (b *bench) all() ([]row, error) {
	var rows []row
	names, run := b.scenes()
	for i, f := range run {
		more, err := f()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", names[i], err)
		}
		rows = append(rows, more...)
	}
	return rows, nil
}

func (b *bench) floors() ([]row, error) {
	f := families[0]
	data, err := frame(f, lb.TCP, f.vip)
	if err != nil {
		return nil, err
	}
	var rows []row
	for _, p := range []struct {
		name string
		prog *ebpf.Program
		want uint32
	}{{"floor XDP (return XDP_TX)", b.wrap.FloorXdp, 3}, {"floor tc (return TCX_NEXT)", b.wrap.FloorIngress, next}} {
		t, err := b.measure(p.prog, data, p.want, b.packets*4, nil)
		if err != nil {
			return nil, err
		}
		rows = append(rows, summary(p.name, 0, t, 0))
	}
	return rows, nil
}

func summary(name string, flows int, t []float64, floor float64) row {
	median := t[len(t)/2]
	r := row{Name: name, Flows: flows, Min: t[0], Median: median, Spread: 100 * (t[len(t)-1] - t[0]) / t[0]}
	if floor > 0 {
		r.Net = median - floor
	}
	return r
}

// against measures a program and, in its place, a floor: both inside the same wrapper.
func (b *bench) against(name string, flows int, wrapper, prog, floor *ebpf.Program, target *ebpf.Map, data []byte, prepare func() error) (row, error) {
	if err := target.Put(uint32(0), floor); err != nil {
		return row{}, err
	}
	f, err := b.measure(wrapper, data, next, b.packets, prepare)
	if err != nil {
		return row{}, err
	}
	if err := target.Put(uint32(0), prog); err != nil {
		return row{}, err
	}
	t, err := b.measure(wrapper, data, next, b.packets, prepare)
	if err != nil {
		return row{}, err
	}
	return summary(name, flows, t, f[len(f)/2]), nil
}

// open makes n flows, established: a SYN and an ACK each, then a reply.
func (b *bench) open(f family, proto lb.Protocol, n int, data []byte) error {
	if err := b.clear(); err != nil {
		return err
	}
	if err := b.wrap.Ingress.Put(uint32(0), b.lb.TcIngress); err != nil {
		return err
	}
	for _, flags := range []packet.Flag{packet.SYN, packet.ACK} {
		if err := b.scene(f, f.vip, 80, n, flags); err != nil {
			return err
		}
		ret, err := b.wrap.WrapIngress.Run(&ebpf.RunOptions{Data: data, DataOut: make([]byte, len(data)+256), Repeat: uint32(n)})
		if err != nil || ret != next {
			return fmt.Errorf("open flows: verdict %d: %w", int32(ret), err)
		}
	}
	return nil
}

func (b *bench) established(f family, proto lb.Protocol, n int) ([]row, error) {
	data, err := frame(f, proto, f.vip)
	if err != nil {
		return nil, err
	}
	if err := b.open(f, proto, n, data); err != nil {
		return nil, err
	}
	in0, _, err := b.counted()
	if err != nil {
		return nil, err
	}
	name := fmt.Sprintf("established %s %s forward", proto, f.name)
	fwd, err := b.against(name, n, b.wrap.WrapIngress, b.lb.TcIngress, b.wrap.FloorIngress, b.wrap.Ingress, data, nil)
	if err != nil {
		return nil, err
	}
	in1, out1, err := b.counted()
	if err != nil {
		return nil, err
	}
	// a signal may interrupt a run, which is then made again
	if want := uint64(b.runs * b.packets); in1-in0 < want || in1-in0 > want+want/100 {
		return nil, fmt.Errorf("%d packets counted, want %d", in1-in0, want)
	}
	back, err := b.replies(f, proto, n, data)
	if err != nil {
		return nil, err
	}
	_, out2, err := b.counted()
	if err != nil {
		return nil, err
	}
	if out2 == out1 {
		return nil, fmt.Errorf("no reply counted")
	}
	return []row{fwd, back}, nil
}

// replies measures egress from one backend; with more than one flow a quarter
// of the packets belong to it and the others find no flow: so one backend is
// asked only where it has every flow.
func (b *bench) replies(f family, proto lb.Protocol, n int, data []byte) (row, error) {
	// all flows to one backend: three of four slots lead to it too
	name := fmt.Sprintf("established %s %s reply", proto, f.name)
	if err := b.oneBackend(f, proto, n, data); err != nil {
		return row{}, err
	}
	return b.against(name, n, b.wrap.WrapEgress, b.lb.TcEgress, b.wrap.FloorEgress, b.wrap.Egress, data, func() error {
		return b.scene(f, f.backends[0], 8080, n, packet.ACK)
	})
}

// oneBackend opens the flows again with a run that has only the first backend.
func (b *bench) oneBackend(f family, proto lb.Protocol, n int, data []byte) error {
	svc := uint32(1)
	if f.name == "v6" {
		svc += 2
	}
	if proto == lb.UDP {
		svc++
	}
	base, id := svc*16, (svc-1)*4+1
	var old [2]uint64
	for i := range old {
		at := base + runHeader + uint32(i)
		if err := b.lb.Slots.Lookup(at, &old[i]); err != nil {
			return err
		}
		if err := b.lb.Slots.Put(at, uint64(id)|uint64(id)<<32); err != nil {
			return err
		}
	}
	if err := b.open(f, proto, n, data); err != nil {
		return err
	}
	for i := range old {
		if err := b.lb.Slots.Put(base+runHeader+uint32(i), old[i]); err != nil {
			return err
		}
	}
	return nil
}

// newFlows measures unique flows: the table is emptied before each run.
func (b *bench) newFlows(f family, proto lb.Protocol) ([]row, error) {
	data, err := frame(f, proto, f.vip)
	if err != nil {
		return nil, err
	}
	const n = 1 << 16
	packets := b.packets
	b.packets = n
	defer func() { b.packets = packets }()
	name := fmt.Sprintf("new %s %s (rr, both inserts)", proto, f.name)
	r, err := b.against(name, n, b.wrap.WrapIngress, b.lb.TcIngress, b.wrap.FloorIngress, b.wrap.Ingress, data, func() error {
		if err := b.clear(); err != nil {
			return err
		}
		return b.scene(f, f.vip, 80, n, packet.SYN)
	})
	return []row{r}, err
}

func (b *bench) notOurs(f family) ([]row, error) {
	other := netip.MustParseAddr("203.0.113.7")
	if f.name == "v6" {
		other = netip.MustParseAddr("fd00:f::cb00:7107")
	}
	data, err := frame(f, lb.TCP, other)
	if err != nil {
		return nil, err
	}
	prepare := func() error { return b.scene(f, other, 80, 1<<16, packet.ACK) }
	in, err := b.against("not ours "+f.name+" ingress", 1<<16, b.wrap.WrapIngress, b.lb.TcIngress, b.wrap.FloorIngress, b.wrap.Ingress, data, prepare)
	if err != nil {
		return nil, err
	}
	out, err := b.against("not ours "+f.name+" egress", 1<<16, b.wrap.WrapEgress, b.lb.TcEgress, b.wrap.FloorEgress, b.wrap.Egress, data, prepare)
	return []row{in, out}, err
}
