// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/internal/packet"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/lb/sched"
)

var flowSets = []struct {
	flows int
	size  size
}{{1, small}, {1 << 10, small}, {1 << 16, small}, {1 << 20, large}}

// step is a scene, and what it needs.
type step struct {
	name string
	size size
	run  func(b *bench) ([]row, error)
}

// steps are what is measured, in the order of the table.
func steps() (s []step) {
	add := func(name string, size size, run func(b *bench) ([]row, error)) { s = append(s, step{name, size, run}) }
	add("floors", small, (*bench).floors)
	for _, hook := range []struct {
		name string
		run  func(*bench, family, lb.Protocol, int) ([]row, error)
	}{{"XDP", (*bench).establishedXDP}, {"tc", (*bench).established}} {
		for _, f := range families {
			for _, proto := range []lb.Protocol{lb.TCP, lb.UDP} {
				for _, set := range flowSets {
					add(fmt.Sprintf("%s established %s %s %d", hook.name, proto, f.name, set.flows), set.size, func(b *bench) ([]row, error) {
						return hook.run(b, f, proto, set.flows)
					})
				}
			}
		}
	}
	for _, f := range families {
		for _, proto := range []lb.Protocol{lb.TCP, lb.UDP} {
			add(fmt.Sprintf("new %s %s", proto, f.name), small, func(b *bench) ([]row, error) { return b.newFlows(f, proto) })
		}
	}
	for _, f := range families {
		add("not ours "+f.name, small, func(b *bench) ([]row, error) { return b.notOurs(f, "") })
		add("refused "+f.name, small, func(b *bench) ([]row, error) { return b.refused(f) })
	}
	add("services", many, (*bench).manyServices)
	add("masqueraded TCP v4", small, (*bench).masquerade)
	add("direct to a backend v4", small, (*bench).direct)
	for _, name := range sched.Names() {
		add("scheduler "+name, small, func(b *bench) ([]row, error) { return b.schedulers(name) })
	}
	return s
}

func (t *tables) all() ([]row, error) {
	var rows []row
	for _, s := range steps() {
		if !t.only.MatchString(s.name) {
			continue
		}
		b, err := t.of(s.size)
		if err != nil {
			return nil, err
		}
		more, err := s.run(b)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
		rows = append(rows, more...)
	}
	return rows, nil
}

// floors are the kernel's part, of programs that do nothing. The last one asks the
// FIB, as XDP does for each packet, from within the wrapper.
func (b *bench) floors() ([]row, error) {
	f, w := families[0], b.world
	data, err := frameTo(w.servers, f, lb.TCP, f.client)
	if err != nil {
		return nil, err
	}
	var rows []row
	for _, p := range []struct {
		name    string
		prog    *ebpf.Program
		want    uint32
		context any
	}{
		{"floor XDP (return XDP_TX)", b.wrap.FloorXdp, xdpTX, w.servers.frame(len(data))},
		{"floor tc (return TCX_NEXT)", b.wrap.FloorIngress, next, nil},
	} {
		var times []float64
		for range b.runs {
			ns, err := measure(p.prog, data, p.want, 4*b.packets, p.context)
			if err != nil {
				return nil, err
			}
			times = append(times, ns)
		}
		slices.Sort(times)
		rows = append(rows, summary(p.name, 0, times, 0))
	}
	fib, err := b.try(trial{name: "floor XDP, bpf_fib_lookup", hook: b.xdp(w.servers, len(data), true), prog: b.wrap.FloorFib, frame: data, want: xdpTX,
		scene: scene{f: f, other: f.backends[0], spread: servers - 1, port: 8080, flows: 1, mac: w.servers.mac}})
	fib.Flows = 0
	return append(rows, fib), err
}

// uniqueFlows are as many as are new in a run.
const uniqueFlows = 1 << 16

// newFlows measures unique flows, of which the table has none before each run; the
// same again, whose former flows are closed and still there; and those of XDP.
func (b *bench) newFlows(f family, proto lb.Protocol) ([]row, error) {
	w := b.world
	data, err := frame(f, proto, f.vip)
	if err != nil {
		return nil, err
	}
	atDevice, err := frameTo(w.clients, f, proto, f.vip)
	if err != nil {
		return nil, err
	}
	s := scene{f: f, other: f.vip, port: 80, flows: uniqueFlows, flags: packet.SYN, random: true}
	unique := trial{name: fmt.Sprintf("new %s %s (rr, unique)", proto, f.name), hook: b.ingress(), prog: b.lb.TcIngress, frame: data, want: next,
		scene: s, packets: uniqueFlows, before: b.clear, counted: b.counted, fill: uniqueFlows}
	ofXDP := unique
	ofXDP.name = fmt.Sprintf("new %s %s (rr, unique, XDP's)", proto, f.name)
	ofXDP.hook, ofXDP.prog, ofXDP.frame, ofXDP.want, ofXDP.scene.mac = b.ingress().at(w.clients), b.withXDP.TcIngress, atDevice, redirect, w.clients.mac
	trials := []trial{unique, ofXDP}
	if f == families[0] && proto == lb.TCP {
		trials = slices.Insert(trials, 0, trial{name: "floor tc, one lookup and two inserts", hook: unique.hook, prog: b.wrap.FloorInsert, frame: data, want: next,
			scene: s, packets: uniqueFlows, before: b.clear, fill: uniqueFlows})
	}
	rows, err := b.tryAll(trials...)
	if err != nil || proto != lb.TCP {
		return rows, err
	}
	cycling := unique
	cycling.name = fmt.Sprintf("new %s %s (rr, cycling)", proto, f.name)
	cycling.before = func() error {
		s.random = false
		if err := b.open(opening{scene: s, hook: unique.hook, prog: unique.prog, frame: data}); err != nil {
			return err
		}
		s.flags = packet.RST
		return b.send(unique.hook, unique.prog, data, s, uniqueFlows)
	}
	r, err := b.try(cycling)
	return append(rows, r), err
}

// notOurs measures what others' packets pay, to 65,536 addresses.
func (b *bench) notOurs(f family, suffix string) ([]row, error) {
	w := b.world
	data, err := frame(f, lb.TCP, f.other)
	if err != nil {
		return nil, err
	}
	atDevice, err := frameTo(w.clients, f, lb.TCP, f.other)
	if err != nil {
		return nil, err
	}
	s := scene{f: f, other: f.other, spread: 1<<16 - 1, port: 80, flows: 1 << 16, flags: packet.ACK, random: true}
	in := trial{name: "not ours " + f.name + " tc ingress" + suffix, hook: b.ingress(), prog: b.lb.TcIngress, frame: data, want: next, scene: s}
	out := trial{name: "not ours " + f.name + " tc egress" + suffix, hook: b.egress(), prog: b.lb.TcEgress, frame: data, want: next, scene: s}
	known := in
	known.name, known.prog = "not ours "+f.name+" tc ingress, with XDP"+suffix, b.withXDP.TcIngress
	xdp := trial{name: "not ours " + f.name + " XDP" + suffix, hook: b.xdp(w.clients, len(data), false), prog: b.withXDP.XdpIngress, frame: atDevice, want: xdpPass, scene: s}
	xdp.scene.mac = w.clients.mac
	return b.tryAll(xdp, in, known, out)
}
