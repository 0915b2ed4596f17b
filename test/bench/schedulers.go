// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/netip"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/internal/packet"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/lb/sched"
	"github.com/waggle-lb/waggle/maps/services"
	"github.com/waggle-lb/waggle/maps/slots"
)

// poolSizes are how many backends the service of scheduler rows has.
var poolSizes = []int{1, 10, 100, 1000, 10_000}

const (
	poolService = 1       // v4 TCP
	poolFirst   = 100     // id of its first backend here
	poolBase    = 1 << 18 // of its run
	poolTable   = 1 << 19 // of mh's table
)

// pool gives the service n backends, of weights 1 to 4, and a scheduler.
func (b *bench) pool(scheduler string, n int) (restore func() error, err error) {
	var old bpf.LBService
	if err := b.lb.Services.Lookup(uint32(poolService), &old); err != nil {
		return nil, err
	}
	svc := &lb.Service{ID: lb.ServiceID{Name: "pool", Family: lb.IPv4}, Scheduler: scheduler}
	for i := range n {
		a := netip.AddrFrom4([4]byte{198, 19, byte(1 + i>>8), byte(i)})
		svc.Backends = append(svc.Backends, lb.Backend{Addr: netip.AddrPortFrom(a, 8080), Weight: uint16(1 + i%4)})
		if err := b.backend(uint32(poolFirst+i), poolService, a, lb.TCP); err != nil {
			return nil, err
		}
	}
	run, err := sched.Compile(svc, svc.Backends, nil, sched.Position{})
	if err != nil {
		return nil, err
	}
	if err := b.writeRun(run); err != nil {
		return nil, err
	}
	word := services.Pool{Base: poolBase, Count: uint32(len(run.Slots)), Rule: run.Rule, Flags: run.Flags}.Word()
	if err := b.lb.Services.Put(uint32(poolService), bpf.LBService{Hash: old.Hash, Pool: word}); err != nil {
		return nil, err
	}
	return func() error { return b.lb.Services.Put(uint32(poolService), old) }, nil
}

func (b *bench) writeRun(run *sched.Run) error {
	t, err := slots.Open(b.lb.Slots)
	if err != nil {
		return err
	}
	id := func(i int) uint32 { return uint32(poolFirst) + uint32(i) }
	switch {
	case run.Flags&sched.HashSip != 0 && run.Rule == sched.Hash:
		t.WriteTable(poolTable, run.Slots)
		t.SetTable(poolBase, poolTable)
		t.Write(poolBase, len(run.Backends), id)
	case run.Rule == sched.Least:
		t.WriteWeighted(poolBase, len(run.Slots), func(i int) (uint32, uint16) {
			at := int(run.Slots[i])
			return id(at), run.Backends[at].Weight
		})
	default:
		t.SetPosition(poolBase, sched.Position{Next: run.Start}, run.LastPass)
		t.Write(poolBase, len(run.Slots), func(i int) uint32 { return id(int(run.Slots[i])) })
	}
	return t.Close()
}

// schedulers measures new flows of a service whose backends are picked by one
// scheduler, by how many backends there are.
func (b *bench) schedulers(scheduler string) (rows []row, err error) {
	f := families[0]
	data, err := frame(f, lb.TCP, f.vip)
	if err != nil {
		return nil, err
	}
	ids := b.ids
	defer func() { b.ids = ids }()
	for _, n := range poolSizes {
		restore, err := b.pool(scheduler, n)
		if err != nil {
			return nil, err
		}
		packets := uniqueFlows
		if n >= 10_000 {
			packets = 1 << 13 // a scan of them all takes its time
		}
		b.ids = uint32(poolFirst + n)
		r, err := b.try(trial{name: fmt.Sprintf("new TCP v4 (%s, %d backends)", scheduler, n), hook: b.ingress(), prog: b.lb.TcIngress, frame: data, want: next,
			scene: scene{f: f, other: f.vip, port: 80, flows: packets, flags: packet.SYN, random: true}, packets: packets, before: b.clear, fill: packets})
		if err != nil {
			return nil, err
		}
		rows = append(rows, r)
		if err := restore(); err != nil {
			return nil, err
		}
	}
	return rows, nil
}
