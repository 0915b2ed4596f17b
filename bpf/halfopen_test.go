// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package bpf_test

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/internal/packet"
	"github.com/waggle-lb/waggle/lb"
)

// flood is a world with one server, and a client for each n.
type flood struct {
	*programs
	f     family
	proto lb.Protocol
}

func newFlood(t *testing.T, f family, proto lb.Protocol) *flood {
	return newFloodWith(t, nil, f, proto)
}

func newFloodWith(t *testing.T, vars map[string]any, f family, proto lb.Protocol) *flood {
	p := loadWith(t, vars)
	p.backend(1, f.servers[0], 1)
	p.pool(1, bpf.LBRuleRULE_CURSOR, 0, 1)
	p.vip(f.vip, proto, 1)
	return &flood{p, f, proto}
}

func (w *flood) client(n int) netip.AddrPort {
	a := w.f.client.Addr().As16()
	a[13] = byte(40 + n/30000)
	return netip.AddrPortFrom(netip.AddrFrom16(a).Unmap(), uint16(20000+n%30000))
}

// send sends a client's packet to the VIP and says whether it reached the server.
func (w *flood) from(n int, flags packet.Flag) bool {
	w.t.Helper()
	in := packet.Packet{Src: w.client(n), Dst: w.f.vip, Protocol: w.proto, Flags: flags}
	if w.proto == lb.UDP {
		in.Flags, in.Payload = 0, []byte("hi")
	}
	ret, out := w.programs.send(w.TcIngress, in)
	got, err := packet.Parse(out)
	w.do(err)
	return int32(ret) == -1 && got.Dst == w.f.servers[0]
}

// reply sends the server's packet to a client.
func (w *flood) reply(n int, flags packet.Flag) {
	w.t.Helper()
	in := packet.Packet{Src: w.f.servers[0], Dst: w.client(n), Protocol: w.proto, Flags: flags}
	if w.proto == lb.UDP {
		in.Flags, in.Payload = 0, []byte("hi")
	}
	w.programs.send(w.TcEgress, in)
}

// open opens a connection for good.
func (w *flood) open(n int) {
	w.t.Helper()
	if !w.from(n, packet.SYN) {
		w.t.Fatalf("client %d is kept out: drops %v", n, w.drops())
	}
	w.reply(n, packet.SYN|packet.ACK)
	if !w.from(n, packet.ACK) {
		w.t.Fatalf("client %d was displaced", n)
	}
}

// wantExact wants the counters to say what is in the table.
func (w *flood) wantExact() (forward, half int) {
	w.t.Helper()
	var k bpf.LBFlowKey
	var v bpf.LBFlow
	dead := 0
	for it := w.Flows.Iterate(); it.Next(&k, &v); {
		switch {
		case v.State >= uint8(bpf.LBFlowStateSTATE_DEAD):
			dead++
		case k.Position == uint8(bpf.LBPositionPOSITION_E1):
			forward++
			if v.Flags&uint8(bpf.LBFlowFlagsFLOW_HALF_OPEN) != 0 {
				half++
			}
		}
	}
	var r bpf.LBHalfOpenRing
	w.do(w.HalfOpenEnds.Lookup(uint32(0), &r))
	if l := w.load(1); int(l.Active+l.Inactive) != forward || int(r.Count) != half {
		w.t.Errorf("load %+v, %d half-open; in the table %d flows, %d half-open", l, r.Count, forward, half)
	}
	if n := w.entries(); dead == 0 && n != 2*forward {
		w.t.Errorf("%d entries of %d flows", n, forward)
	}
	return forward, half
}

// A flood of SYNs takes the places of its own oldest: what is established stays,
// a client that goes on gets through, and the table has room.
func TestAFloodOfSYNsDisplacesItself(t *testing.T) {
	for _, f := range families() {
		w := newFlood(t, f, lb.TCP)
		for n := range 100 {
			w.open(n)
		}
		for n := range 20000 {
			if !w.from(1000+n, packet.SYN) {
				t.Fatalf("SYN %d: drops %v", n, w.drops())
			}
			if n%100 == 0 {
				w.open(30000 + n)
			}
		}
		for n := range 100 {
			if !w.from(n, packet.ACK) {
				t.Errorf("established flow %d is gone", n)
			}
		}
		forward, half := w.wantExact()
		if half > ringPlaces || half < ringPlaces/2 || forward != half+300 {
			t.Errorf("%d flows, %d half-open", forward, half)
		}
		if d := w.drops(); d[bpf.LBDropReasonDROP_DISPLACED] != uint64(20000-half) {
			t.Errorf("drops %v, half-open %d", d, half)
		}
	}
}

// With few half-open flows none is displaced, however many go through the ring.
func TestFewHalfOpenFlowsStay(t *testing.T) {
	w := newFlood(t, families()[0], lb.TCP)
	w.from(0, packet.SYN)
	for n := range 3 * ringPlaces / 2 {
		w.open(1 + n)
	}
	if !w.from(0, packet.ACK) {
		t.Error("the half-open flow is gone")
	}
	if d := w.drops(); len(d) != 0 {
		t.Errorf("drops %v", d)
	}
	w.wantExact()
}

// In a table that is full of established flows but for some that are half-open,
// these make room.
func TestAFullTableMakesRoomOfHalfOpenFlows(t *testing.T) {
	w := newFlood(t, families()[1], lb.TCP)
	for n := range 2048 - 200 { // the room of 4096 entries, less 200 flows
		w.open(1000 + n)
	}
	for n := range 200 {
		w.from(n, packet.SYN)
	}
	for n := range 200 {
		w.open(3000 + n)
	}
	if d := cmp.Diff(map[bpf.LBDropReason]uint64{bpf.LBDropReasonDROP_DISPLACED: 200}, w.drops()); d != "" {
		t.Errorf("drops (-want +got):\n%s", d)
	}
	if w.from(5000, packet.SYN) {
		t.Error("a flow too many")
	}
	if _, half := w.wantExact(); half != 0 {
		t.Errorf("%d half-open", half)
	}
}

// UDP without answer is half-open until the third datagram, a second or more
// after the first; the first answer settles it at once.
func TestDatagramsThatGoOnAreNotDisplaced(t *testing.T) {
	for _, tc := range []struct {
		name  string
		stays bool
		do    func(w *flood)
	}{
		{"one datagram", false, func(w *flood) { w.from(0, 0) }},
		{"answered", true, func(w *flood) { w.from(0, 0); w.reply(0, 0) }},
		{"three at once", false, func(w *flood) { w.from(0, 0); w.from(0, 0); w.from(0, 0) }},
		{"two in time", false, func(w *flood) { w.from(0, 0); w.sleep(2); w.from(0, 0) }},
		{"three in time", true, func(w *flood) { w.from(0, 0); w.sleep(2); w.from(0, 0); w.from(0, 0) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newFlood(t, families()[0], lb.UDP)
			tc.do(w)
			for n := range 2 * ringPlaces {
				w.from(1000+n, 0)
			}
			w.wantExact()
			k := bpf.LBFlowKey{Saddr: w.client(0).Addr().As16(), Daddr: w.f.vip.Addr().As16(), Sport: w.client(0).Port(), Dport: w.f.vip.Port(),
				Proto: uint8(lb.UDP), Position: uint8(bpf.LBPositionPOSITION_E1)}
			var v bpf.LBFlow
			if err := w.Flows.Lookup(k, &v); (err == nil) != tc.stays {
				t.Errorf("the flow: %v, want it to stay: %v", err, tc.stays)
			}
		})
	}
}

// A SYN that the server refuses is no sign of the client: it may be displaced.
func TestRefusedSYNsAreDisplaced(t *testing.T) {
	w := newFlood(t, families()[0], lb.TCP)
	for n := range 3 * ringPlaces {
		w.from(n, packet.SYN)
		w.reply(n, packet.RST|packet.ACK)
	}
	if forward, half := w.wantExact(); forward > ringPlaces || half != forward {
		t.Errorf("%d flows, %d half-open", forward, half)
	}
}

// A client that takes its port again may meet itself in the ring: its new flow
// stays.
func TestAFlowDoesNotDisplaceItself(t *testing.T) {
	w := newFlood(t, families()[0], lb.TCP)
	for n := range ringPlaces { // one round, all half-open
		w.from(n, packet.SYN)
	}
	w.from(0, packet.ACK)
	w.from(0, packet.RST)
	if !w.from(0, packet.SYN) || !w.from(0, packet.ACK) { // at its own place
		t.Error("the client's second connection is gone")
	}
	w.wantExact()
}
