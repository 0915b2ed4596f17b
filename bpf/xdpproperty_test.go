// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package bpf_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/internal/packet"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/maps/stats"
)

// A way is how a router treats packets: with XDP before its other programs, or without.
type way struct {
	*programs
	w   *world
	xdp int // packets that XDP sent on
}

// fate is what became of a packet, and what left instead of it.
type fate struct {
	what  string
	frame []byte
}

// route puts a frame in at a device, and takes it through the programs as the kernel would.
func (y *way) route(at *place, frame []byte) fate {
	y.t.Helper()
	y.at = at
	if y.xdp >= 0 {
		switch ret, out := y.sendFrame(y.XdpIngress, frame); ret {
		case xdpTX, xdpRedirect:
			y.xdp++
			return fate{"left", ends(out)}
		case xdpPass:
			frame = out
		default:
			y.t.Fatalf("XDP's verdict is %d", ret)
		}
	}
	ret, out := y.sendFrame(y.TcIngress, frame)
	switch {
	case ret == drop:
		return fate{what: "dropped"}
	case ret == redirect && answers(frame, out):
		return fate{"answered", ends(out)}
	}
	y.at = y.w.servers
	if at == y.w.servers {
		y.at = y.w.clients
	}
	copy(out, y.at.mac[:]) // or egress sees another's, as test runs judge by the address
	if ret, out = y.sendFrame(y.TcEgress, out); ret == drop {
		return fate{what: "dropped"}
	}
	return fate{"left", ends(out)}
}

// answers reports whether a frame goes back to whom another came from.
func answers(in, out []byte) bool {
	from, to := 14+12, 14+16
	n := 4
	if in[14]>>4 == 6 {
		from, to, n = 14+8, 14+24, 16
	}
	return string(in[from:from+n]) == string(out[to:to+n])
}

// ends is a frame without what says how it was forwarded: Ethernet addresses and the hop
// limit, and with that the header's checksum.
func ends(frame []byte) []byte {
	out := append([]byte(nil), frame[14:]...)
	if out[0]>>4 == 4 {
		out[8], out[10], out[11] = 0, 0, 0
	} else {
		out[7] = 0
	}
	return out
}

// held is what the maps say: flows, loads, counters and drops.
func (y *way) held() []string {
	y.t.Helper()
	var out []string
	var k bpf.LBFlowKey
	var v bpf.LBFlow
	for it := y.Flows.Iterate(); it.Next(&k, &v); {
		v.Flags &^= uint8(bpf.LBFlowFlagsFLOW_XDP)
		out = append(out, fmt.Sprintf("%v %v:%d -> %v:%d becomes %v:%d state %d flags %d backend %d packets %d bytes %d", k.Position,
			netip.AddrFrom16(k.Saddr), k.Sport, netip.AddrFrom16(k.Daddr), k.Dport, netip.AddrFrom16(v.Addr), v.Port, v.State, v.Flags, v.Backend, v.Packets, v.Bytes))
	}
	slices.Sort(out)
	y.do(stats.EachStats(y.Stats, 4, func(id uint32, s bpf.LBBackendStats) {
		out = append(out, fmt.Sprintf("backend %d: load %+v, counters %+v", id, y.load(id), s))
	}))
	return append(out, fmt.Sprint(y.drops()))
}

// random makes the frames of a seed.
type random struct {
	*rand.Rand
	f     family
	proto lb.Protocol
}

// service is one of two, and a client of it. The ports of their clients differ, as which
// other port one would get is not the seed's.
func (r *random) service() (vip netip.AddrPort, client netip.AddrPort, backends []netip.AddrPort) {
	client = port(r.f.client, uint16(20000+r.IntN(12)))
	if r.IntN(2) == 0 {
		return r.f.vip, client, r.f.servers[:2]
	}
	return r.f.vip2, port(client, client.Port()+100), r.f.servers[2:]
}

func (r *random) packet() (fromServer bool, p packet.Packet) {
	vip, client, backends := r.service()
	backend := backends[r.IntN(len(backends))]
	p = packet.Packet{Src: client, Dst: vip, Protocol: r.proto, Payload: make([]byte, r.IntN(1400)), TTL: uint8(2 + r.IntN(200))}
	flags := []packet.Flag{packet.SYN, packet.ACK, packet.ACK, packet.ACK, packet.ACK, packet.FIN | packet.ACK, packet.RST}
	p.Flags = flags[r.IntN(len(flags))]
	switch r.IntN(20) {
	case 0:
		p.Dst = backend // not through the VIP
	case 1:
		p.Dst = port(vip, 81)
	case 2:
		p.Options = p.Src.Addr().Is4()
	case 3:
		p.ZeroChecksum = r.proto == lb.UDP && p.Src.Addr().Is4()
	case 4:
		p.More, p.Fragment = p.Src.Addr().Is4(), 0
	}
	if r.IntN(2) == 0 {
		return false, p
	}
	p.Src, p.Dst = backend, client
	if vip == r.f.vip2 { // which is masqueraded, by the client's own port
		p.Dst = netip.AddrPortFrom(nodes[r.f.name], client.Port())
	}
	if r.IntN(10) == 0 {
		p.Dst = port(p.Dst, otherPort)
	}
	if p.Flags == packet.SYN {
		p.Flags |= packet.ACK
	}
	return true, p
}

func setUp(p *programs, f family, proto lb.Protocol) {
	for i, s := range f.servers {
		p.backend(uint32(i+1), s, 1)
	}
	p.pool(1, bpf.LBRuleRULE_CURSOR, 0, 1, 2)
	p.pool(2, bpf.LBRuleRULE_CURSOR, 0, 3, 4)
	masqueraded := f
	masqueraded.vip, masqueraded.servers = f.vip2, f.servers[2:]
	p.vip(f.vip, proto, 1)
	p.vip(f.vip2, proto, 2)
	p.masquerade(masqueraded, nodes[f.name], proto)
	var ports []uint16
	for i := range uint16(12) {
		ports = append(ports, 20100+i)
	}
	p.ports(ports...)
	// one other port alone, so that nothing is left to the kernel's dice
	p.ports(otherPort)
}

// otherPort is what a client gets whose own port is taken.
const otherPort = 5000

// change changes a backend in both.
func (r *random) change(ways ...*way) {
	id, what := uint32(1+r.IntN(4)), r.IntN(3)
	for _, y := range ways {
		var b bpf.LBBackend
		y.do(y.Backends.Lookup(id, &b))
		switch what {
		case 0:
			b.State = uint8(bpf.LBBackendStateBACKEND_UNHEALTHY)
		case 1:
			b.Weight = 1 - b.Weight
		case 2:
			b.State = uint8(bpf.LBBackendStateBACKEND_ACTIVE)
		}
		y.do(y.Backends.Put(id, b))
	}
}

// Whatever comes, in whatever order: with XDP what leaves is the same, byte for byte, and
// what the maps say is the same.
func TestXDPIsAsGoodAsNone(t *testing.T) {
	w := newWorld(t)
	for _, f := range families() {
		for _, proto := range []lb.Protocol{lb.TCP, lb.UDP} {
			t.Run(f.name+"/"+proto.String(), func(t *testing.T) {
				w.t = t
				a, b := &way{programs: w.load(), w: w}, &way{programs: w.load(), w: w, xdp: -1}
				b.Close()
				b.programs = loadWith(t, nil)
				w.devices(b.programs, 0, 0)
				setUp(a.programs, f, proto)
				setUp(b.programs, f, proto)
				r := &random{rand.New(rand.NewPCG(1, uint64(proto))), f, proto}
				for i := range 1500 {
					fromServer, p := r.packet()
					at := w.clients
					if fromServer {
						at = w.servers
					}
					frame, err := come(at, p).Bytes()
					a.do(err)
					if r.IntN(30) == 0 {
						frame = unfinished(frame, proto)
					}
					if r.IntN(40) == 0 {
						r.change(a, b)
					}
					got, want := a.route(at, append([]byte(nil), frame...)), b.route(at, frame)
					if diff := cmp.Diff(want, got, cmp.AllowUnexported(fate{})); diff != "" {
						t.Fatalf("packet %d %+v (-without +with XDP):\n%s", i, p, diff)
					}
				}
				if diff := cmp.Diff(b.held(), a.held()); diff != "" {
					t.Errorf("the maps (-without +with XDP):\n%s", diff)
				}
				if a.xdp < 300 {
					t.Errorf("XDP sent %d packets, too few to say anything", a.xdp)
				}
			})
		}
	}
}
