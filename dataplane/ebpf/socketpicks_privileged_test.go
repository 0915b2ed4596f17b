// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package ebpf

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/dataplane/conformance"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/lb/sched"
)

var (
	socketCases = flag.Int("socket-cases", 60, "services for which sockets and packets are compared")
	socketSeed  = flag.Uint64("socket-seed", 1, "which ones")
)

// pickRun is one service that two dataplanes have: sockets ask the one, packets the
// other.
type pickRun struct {
	t       testing.TB
	r       *rand.Rand
	rigs    [2]conformance.Rig
	family  lb.Family
	proto   lb.Protocol
	svc     *lb.Service
	clients uint16
	open    []tuple
	servers map[tuple]netip.AddrPort
	steps   []string // what was done, for who reads of a difference
}

func (p *pickRun) did(format string, args ...any) {
	p.steps = append(p.steps, fmt.Sprintf(format, args...))
}

// TestSocketsArePickedForAsPackets makes connections at random: one by one, those of
// sockets go where those of packets go, and count as much.
func TestSocketsArePickedForAsPackets(t *testing.T) {
	rigs := [2]conformance.Rig{newSocketRig(t, false), newRig(t, nil)}
	for n := range *socketCases {
		p := &pickRun{t: t, r: rand.New(rand.NewPCG(*socketSeed, uint64(n))), rigs: rigs, servers: make(map[tuple]netip.AddrPort)}
		p.family, p.proto = lb.IPv4, lb.TCP
		if p.r.IntN(2) == 0 {
			p.family = lb.IPv6
		}
		if p.r.IntN(3) == 0 {
			p.proto = lb.UDP
		}
		p.describe()
		for range 40 {
			p.step()
			if t.Failed() {
				t.Fatalf("case %d of -socket-seed %d: %+v\n%s", n, *socketSeed, p.svc, strings.Join(p.steps, "\n"))
			}
		}
		p.compareCounts()
		p.apply(nil)
		p.advance(4 * time.Hour)
		if t.Failed() {
			t.Fatalf("case %d of -socket-seed %d: %+v", n, *socketSeed, p.svc)
		}
	}
	if led := rigs[0].(*socketRig).led; led < *socketCases {
		t.Errorf("in %d cases only %d sockets were led", *socketCases, led)
	}
}

func (p *pickRun) addr(net byte, n int, port uint16) netip.AddrPort {
	if p.family == lb.IPv4 {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, net, 7, byte(n)}), port)
	}
	a := netip.MustParseAddr("2001:db8::").As16()
	a[5], a[15] = net, byte(n)
	return netip.AddrPortFrom(netip.AddrFrom16(a), port)
}

// describe makes up a service and applies it.
func (p *pickRun) describe() {
	names := sched.Names()
	p.svc = &lb.Service{ID: lb.ServiceID{Name: "web", Family: p.family}, Scheduler: names[p.r.IntN(len(names))]}
	for n := range 2 {
		f := lb.Frontend{Addr: p.addr(18, n, 80), Protocol: p.proto}
		if n == 1 && p.r.IntN(3) == 0 {
			f.Policy = lb.PolicyLocal
		}
		p.svc.Frontends = append(p.svc.Frontends, f)
	}
	s, err := sched.Find(p.svc.Scheduler)
	if err != nil {
		p.t.Fatal(err)
	}
	p.svc.SchedulerFlags = s.Flags & lb.SchedulerFlags(p.r.Uint32())
	if p.r.IntN(4) == 0 { // flows that live do not keep a client, as sockets do not
		p.svc.Affinity = lb.Affinity{Timeout: []time.Duration{50 * time.Second, 10 * time.Hour}[p.r.IntN(2)], Prefix: uint8(p.family.Bits() - 8*p.r.IntN(2)), Lapses: true, Quiesced: p.r.IntN(2) == 0}
	}
	p.svc.OnePacket = p.proto == lb.UDP && p.r.IntN(5) == 0
	p.change()
}

// change makes up the backends and applies them.
func (p *pickRun) change() {
	next := *p.svc
	next.Backends = nil
	for n := range 6 {
		if p.r.IntN(3) == 0 {
			continue
		}
		b := lb.Backend{Addr: p.addr(19, n, 8080), Weight: uint16(p.r.IntN(5)), Unhealthy: p.r.IntN(10) == 0}
		if p.r.IntN(4) == 0 {
			b.Upper = 1 + uint32(p.r.IntN(4))
		}
		if p.r.IntN(4) == 0 {
			b.Outside = []lb.Pools{lb.Cluster, lb.Local}[p.r.IntN(2)]
		}
		next.Backends = append(next.Backends, b)
	}
	p.svc = &next
	p.did("backends %v", next.Backends)
	snap, err := lb.NewSnapshot(p.svc)
	if err != nil {
		p.t.Fatal(err)
	}
	p.apply(snap)
}

func (p *pickRun) apply(snap *lb.Snapshot) {
	p.t.Helper()
	for _, rig := range p.rigs {
		if rep := rig.Dataplane().Apply(snap); rep.Err != nil || len(rep.Failed) > 0 {
			p.t.Fatalf("apply: error %v, failed %v", rep.Err, rep.Failed)
		}
	}
}

func (p *pickRun) advance(by time.Duration) {
	p.did("%s pass", by)
	for _, rig := range p.rigs {
		rig.Advance(by)
	}
}

// step does one of the things that happen.
func (p *pickRun) step() {
	switch n := p.r.IntN(20); {
	case n == 0:
		p.change()
	case n < 3 && len(p.open) > 0:
		p.endOne()
	case n < 5 && len(p.open) > 0 && !p.svc.OnePacket && p.proto == lb.UDP:
		p.send(p.open[p.r.IntN(len(p.open))], 0)
	default:
		p.begin()
	}
}

// send puts a packet in at both, and wants the same outcome.
func (p *pickRun) send(at tuple, flags conformance.Flag) conformance.Outcome {
	p.t.Helper()
	if p.proto == lb.UDP {
		flags = 0
	}
	var got [2]conformance.Outcome
	for i, rig := range p.rigs {
		got[i] = rig.Send(conformance.Packet{Src: at.src, Dst: at.dst, Protocol: p.proto, Flags: flags})
		if v := got[i].Verdict; v == lb.Refuse || v == lb.Drop {
			got[i].Src, got[i].Dst = netip.AddrPort{}, netip.AddrPort{}
		}
	}
	p.did("%s to %s flags %#x: %v to %v", at.src, at.dst, flags, got[1].Verdict, got[1].Dst)
	if got[0] != got[1] {
		p.t.Errorf("%s %s to %s: a socket has %+v, a packet %+v", p.proto, at.src, at.dst, got[0], got[1])
	}
	return got[0]
}

func (p *pickRun) begin() {
	p.clients++
	at := tuple{p.addr(51, 1+p.r.IntN(5), 20000+p.clients), p.svc.Frontends[p.r.IntN(2)].Addr, p.proto}
	out := p.send(at, conformance.SYN)
	if out.Verdict != lb.Forward || p.svc.OnePacket {
		return
	}
	p.open = append(p.open, at)
	p.servers[at] = out.Dst
	p.establish(at)
}

// establish lets the server answer, and the client go on.
func (p *pickRun) establish(at tuple) {
	reply := conformance.Packet{From: conformance.Backend, Src: p.servers[at], Dst: at.src, Protocol: p.proto}
	if p.proto == lb.TCP {
		reply.Flags = conformance.SYN | conformance.ACK
	}
	for i, rig := range p.rigs {
		if out := rig.Send(reply); out.Src != at.dst {
			p.t.Errorf("%s: an answer of %s is from %s, want %s", []string{"socket", "packet"}[i], p.servers[at], out.Src, at.dst)
		}
	}
	p.send(at, conformance.ACK)
}

// endOne lets so much time pass that a connection ends that is silent, and none of the
// others.
func (p *pickRun) endOne() {
	const margin = 30 * time.Second
	life := 15 * time.Minute
	if p.proto == lb.UDP {
		life = 5 * time.Minute
	}
	last := p.r.IntN(len(p.open))
	p.open = append(p.open[:last], p.open[last+1:]...)
	for _, by := range []time.Duration{life - margin, 2 * margin} {
		p.advance(by)
		for _, at := range p.open {
			p.send(at, conformance.ACK)
		}
	}
}

// compareCounts compares what counts at each backend, and how often it was picked.
func (p *pickRun) compareCounts() {
	p.t.Helper()
	var got [2]map[string]string
	for i, rig := range p.rigs {
		c, err := rig.Dataplane().Counters()
		if err != nil {
			p.t.Fatal(err)
		}
		got[i] = make(map[string]string)
		for id, b := range c.Backends {
			got[i][id.Addr.String()] = countsOf(b)
		}
	}
	if d := cmp.Diff(got[1], got[0]); d != "" {
		p.t.Errorf("backends (-packets +sockets):\n%s", d)
	}
}

func countsOf(b dataplane.BackendCounters) string {
	return fmt.Sprintf("active %d, inactive %d, overloaded %v", b.Active, b.Inactive, b.Overloaded)
}
