// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package bpf_test

import (
	"net/netip"
	"testing"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/internal/packet"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/maps/stats"
)

// picked sends the first packet of a client port and returns where it went.
func (p *programs) picked(f family, proto lb.Protocol, cport uint16, flags packet.Flag) netip.AddrPort {
	p.t.Helper()
	ret, b := p.send(p.TcIngress, packet.Packet{Src: port(f.client, cport), Dst: f.vip, Protocol: proto, Flags: flags})
	if ret != next {
		return netip.AddrPort{}
	}
	q, err := packet.Parse(b)
	p.do(err)
	return q.Dst
}

func (p *programs) entries() (n int) {
	var k bpf.LBFlowKey
	var v bpf.LBFlow
	it := p.Flows.Iterate()
	for it.Next(&k, &v) {
		n++
	}
	p.do(it.Err())
	return n
}

func (p *programs) state(f family, proto lb.Protocol) bpf.LBFlowState {
	p.t.Helper()
	k := bpf.LBFlowKey{Saddr: f.client.Addr().As16(), Daddr: f.vip.Addr().As16(), Sport: f.client.Port(), Dport: f.vip.Port(),
		Proto: uint8(proto), Position: uint8(bpf.LBPositionPOSITION_E1)}
	var v bpf.LBFlow
	p.do(p.Flows.Lookup(k, &v))
	return bpf.LBFlowState(v.State)
}

// A script is a TCP connection's packets: "c" from the client, "s" from the
// server, with flags S, A, F, R; and the state after each, as IPVS has it
// (ip_vs_proto_tcp's table, recorded; the timeouts are IPVS's defaults).
func TestTCPStatesAndTimeouts(t *testing.T) {
	type step struct {
		packet string
		state  bpf.LBFlowState
	}
	const (
		es = bpf.LBFlowStateSTATE_ESTABLISHED
		sr = bpf.LBFlowStateSTATE_SYN_RECV
		fw = bpf.LBFlowStateSTATE_FIN_WAIT
		tw = bpf.LBFlowStateSTATE_TIME_WAIT
		cl = bpf.LBFlowStateSTATE_CLOSE
		cw = bpf.LBFlowStateSTATE_CLOSE_WAIT
	)
	open := []step{{"cS", sr}, {"sSA", sr}, {"cA", es}}
	tests := []struct {
		name    string
		steps   []step
		active  bool
		timeout uint64
	}{
		{"half open", open[:2], true, 60},
		{"established", append(open[:3:3], step{"cA", es}, step{"sA", es}), true, 900},
		{"client closes", append(open[:3:3], step{"cFA", cw}), false, 60},
		{"client closes first", append(open[:3:3], step{"cFA", cw}, step{"sFA", tw}, step{"cA", tw}), false, 120},
		{"server closes", append(open[:3:3], step{"sFA", fw}), false, 120},
		{"server closes first", append(open[:3:3], step{"sFA", fw}, step{"cFA", tw}, step{"sA", tw}), false, 120},
		{"client resets", append(open[:3:3], step{"cR", cl}), false, 10},
		{"server resets", append(open[:3:3], step{"sRA", cl}), false, 10},
		{"server refuses", []step{{"cS", sr}, {"sRA", cl}}, false, 10},
	}
	flags := map[rune]packet.Flag{'S': packet.SYN, 'A': packet.ACK, 'F': packet.FIN, 'R': packet.RST}
	for _, f := range families() {
		for _, tc := range tests {
			t.Run(f.name+"/"+tc.name, func(t *testing.T) {
				p := load(t)
				p.backend(1, f.servers[0], 1)
				p.pool(1, bpf.LBRuleRULE_CURSOR, 0, 1)
				p.vip(f.vip, lb.TCP, 1)
				for _, s := range tc.steps {
					in := packet.Packet{Src: f.client, Dst: f.vip, Protocol: lb.TCP}
					prog := p.TcIngress
					if s.packet[0] == 's' {
						in.Src, in.Dst, prog = f.servers[0], f.client, p.TcEgress
					}
					for _, r := range s.packet[1:] {
						in.Flags |= flags[r]
					}
					p.send(prog, in)
					if got := p.state(f, lb.TCP); got != s.state {
						t.Fatalf("after %s: state %v, want %v", s.packet, got, s.state)
					}
				}
				want := bpf.LBBackendLoad{Inactive: 1}
				if tc.active {
					want = bpf.LBBackendLoad{Active: 1}
				}
				if got := p.load(1); got != want {
					t.Errorf("load %+v, want %+v", got, want)
				}
				p.sleep(tc.timeout - 1)
				p.sweep()
				if got := p.load(1); got != want {
					t.Errorf("load %+v before the timeout, want %+v", got, want)
				}
				p.sleep(2)
				p.sweep()
				if got := p.load(1); got != (bpf.LBBackendLoad{}) {
					t.Errorf("load %+v after the timeout, want none", got)
				}
				p.sleep(2)
				p.sweep()
				if n := p.entries(); n != 0 {
					t.Errorf("%d entries left", n)
				}
			})
		}
	}
}

func TestASYNOnAFinishedTuplePicksAfresh(t *testing.T) {
	each(t, func(t *testing.T, p *programs, f family, proto lb.Protocol) {
		if proto != lb.TCP {
			return
		}
		if got := p.picked(f, proto, 10001, packet.SYN); got != f.servers[0] {
			t.Fatalf("picked %v", got)
		}
		if got := p.picked(f, proto, 10001, packet.SYN); got != f.servers[0] {
			t.Errorf("a retransmitted SYN went to %v", got)
		}
		p.picked(f, proto, 10001, packet.ACK)
		p.picked(f, proto, 10001, packet.RST)
		if got := p.picked(f, proto, 10001, packet.SYN); got != f.servers[1] {
			t.Errorf("port reuse went to %v, want %v", got, f.servers[1])
		}
		if a, b := p.load(1), p.load(2); a != (bpf.LBBackendLoad{}) || b != (bpf.LBBackendLoad{Active: 1}) {
			t.Errorf("loads %+v %+v", a, b)
		}
		if n := p.entries(); n != 3 {
			t.Errorf("%d entries, want a pair, and what replies to the former backend had", n)
		}
		p.sleep(2)
		p.sweep()
		if n := p.entries(); n != 2 {
			t.Errorf("%d entries, want one pair", n)
		}
		back := packet.Packet{Src: f.servers[1], Dst: f.client, Protocol: proto, Flags: packet.SYN | packet.ACK}
		out := back
		out.Src = f.vip
		p.want(p.TcEgress, back, next, out)
	})
}

func TestFlowsOfAGoneBackend(t *testing.T) {
	each(t, func(t *testing.T, p *programs, f family, proto lb.Protocol) {
		p.picked(f, proto, 10001, packet.SYN)
		p.picked(f, proto, 10001, packet.ACK)
		p.pool(1, bpf.LBRuleRULE_CURSOR, 0, 2, 3)
		p.put(1, bpf.LBBackend{})
		want := f.servers[0] // TCP goes on
		if proto == lb.UDP {
			want = f.servers[1]
		}
		if got := p.picked(f, proto, 10001, packet.ACK); got != want {
			t.Errorf("went to %v, want %v", got, want)
		}
		if got := p.picked(f, proto, 10001, packet.SYN); got != f.servers[1] {
			t.Errorf("a new connection went to %v, want %v", got, f.servers[1])
		}
	})
}

func TestQuiescedBackendKeepsWhatItHas(t *testing.T) {
	each(t, func(t *testing.T, p *programs, f family, proto lb.Protocol) {
		p.picked(f, proto, 10001, packet.SYN)
		p.picked(f, proto, 10001, packet.ACK)
		p.backend(1, f.servers[0], 0)
		if got := p.picked(f, proto, 10001, packet.ACK); got != f.servers[0] {
			t.Errorf("went to %v, want %v", got, f.servers[0])
		}
	})
}

func TestAHintThatLiesIsMendedByTheHash(t *testing.T) {
	each(t, func(t *testing.T, p *programs, f family, proto lb.Protocol) {
		p.picked(f, proto, 10001, packet.SYN)
		// the backend gets another id, and its old one goes to somebody else
		p.backend(9, f.servers[3], 1)
		p.put(1, bpf.LBBackend{Hash: 0xb009, State: 1, Weight: 1})
		p.put(7, bpf.LBBackend{Hash: 0xb001, State: 1, Weight: 1})
		for n := range uint32(8) { // in its chain, before it
			p.put(20+n, bpf.LBBackend{Hash: 0xb001 + 4096*uint64(1+n), State: 1, Weight: 1})
		}
		if got := p.picked(f, proto, 10001, packet.ACK); got != f.servers[0] {
			t.Errorf("went to %v, want %v", got, f.servers[0])
		}
		p.do(stats.EachStats(p.Stats, 7, func(id uint32, s bpf.LBBackendStats) {
			if id == 7 && s.InPackets != 1 {
				t.Errorf("%d packets counted for the new id, want 1", s.InPackets)
			}
		}))
		if a, b := p.load(1), p.load(7); a != (bpf.LBBackendLoad{}) || b.Active+b.Inactive != 1 {
			t.Errorf("the flow counts as %+v and %+v, want it moved to the new id", a, b)
		}
		p.sleep(1000)
		p.sweep()
		if a, b := p.load(1), p.load(7); a != (bpf.LBBackendLoad{}) || b != (bpf.LBBackendLoad{}) {
			t.Errorf("at the end it counts as %+v and %+v", a, b)
		}
	})
}

func TestUDPFlowLivesByEitherDirection(t *testing.T) {
	f := families()[0]
	p := load(t)
	p.backend(1, f.servers[0], 1)
	p.pool(1, bpf.LBRuleRULE_CURSOR, 0, 1)
	p.vip(f.vip, lb.UDP, 1)
	p.picked(f, lb.UDP, 10001, 0)
	for range 3 {
		p.sleep(200)
		p.send(p.TcEgress, packet.Packet{Src: f.servers[0], Dst: f.client, Protocol: lb.UDP})
		p.sweep()
	}
	if got := p.load(1); got != (bpf.LBBackendLoad{Inactive: 1}) {
		t.Errorf("load %+v: ended although replies pass", got)
	}
	p.sleep(302)
	p.sweep()
	p.sleep(2)
	p.sweep()
	if got, n := p.load(1), p.entries(); got != (bpf.LBBackendLoad{}) || n != 0 {
		t.Errorf("load %+v, %d entries after the timeout", got, n)
	}
}

func TestOrphanReplyEntryIsSwept(t *testing.T) {
	f := families()[0]
	p := load(t)
	k := bpf.LBFlowKey{Saddr: f.servers[0].Addr().As16(), Daddr: f.client.Addr().As16(), Sport: 8080, Dport: 1, Proto: 6, Position: uint8(bpf.LBPositionPOSITION_E4)}
	var now uint64
	p.do(p.ClockJiffies.Get(&now))
	for _, tc := range []struct {
		name string
		age  uint32 // in jiffies
		left int
	}{
		{"newer than this CPU's clock", ^uint32(100), 1},
		{"new", 0, 1},
		{"a minute old", 60 * 1000, 0},
		{"more than half a wrap of the clock old", 1<<31 + 1, 0},
	} {
		var off uint64
		p.do(p.ClockOffset.Get(&off))
		v := bpf.LBFlow{Addr: f.vip.Addr().As16(), Port: 80, State: uint8(bpf.LBFlowStateSTATE_REPLY), Seen: uint32(now+off) - tc.age}
		p.do(p.Flows.Put(k, v))
		p.sweep()
		p.sleep(2)
		p.sweep()
		if n := p.entries(); n != tc.left {
			t.Errorf("%s: %d entries left, want %d", tc.name, n, tc.left)
		}
	}
}

// Both ways of walking end the same flows; the second is tried on every kernel.
func TestPiecesThatUserSpaceReadsAreSwept(t *testing.T) {
	f := families()[1]
	p := loadSpec(t, nil, append([]string{"sweep"}, noPacket...)...)
	p.backend(1, f.servers[0], 1)
	p.pool(1, bpf.LBRuleRULE_CURSOR, 0, 1)
	p.vip(f.vip, lb.UDP, 1)
	const n = 1500 // with their replies more than one piece
	for i := range uint16(n) {
		p.picked(f, lb.UDP, 20000+i, 0)
	}
	p.sleep(200)
	p.picked(f, lb.UDP, 20000, 0) // lives on
	p.sleep(110)
	p.sweep()
	if l := p.load(1); l.Active+l.Inactive != 1 {
		t.Errorf("%d flows are counted after their timeout, want 1", l.Active+l.Inactive)
	}
	p.sleep(2)
	p.sweep()
	if left := p.entries(); left != 2 {
		t.Errorf("%d entries left, want 2", left)
	}
}

func TestFullTableRefusesNewFlowsAndKeepsOld(t *testing.T) {
	f := families()[1]
	p := load(t)
	p.backend(1, f.servers[0], 1)
	p.pool(1, bpf.LBRuleRULE_CURSOR, 0, 1)
	p.vip(f.vip, lb.TCP, 1)
	for i := range uint16(3000) {
		if p.picked(f, lb.TCP, 20000+i, packet.SYN).IsValid() {
			p.picked(f, lb.TCP, 20000+i, packet.ACK)
		}
	}
	if d := p.drops(); d[bpf.LBDropReasonDROP_FLOWS_FULL] < 900 {
		t.Errorf("drops %v", d)
	}
	if got := p.picked(f, lb.TCP, 20000, packet.ACK); got != f.servers[0] {
		t.Errorf("an old flow went to %v", got)
	}
	if l := p.load(1); l.Active > 2048 || l.Active < 2000 {
		t.Errorf("load %+v", l)
	}
}
