// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package bpf_test

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/internal/packet"
	"github.com/waggle-lb/waggle/lb"
)

// whole sends the fragments of a packet, in order, and wants them to come out
// as the fragments of another.
func (p *programs) whole(prog *ebpf.Program, in, want packet.Packet, id uint32) {
	p.t.Helper()
	frame, err := in.Bytes()
	p.do(err)
	parts, err := packet.Fragment(frame, 512, id)
	p.do(err)
	var out [][]byte
	for i, part := range parts {
		ret, b := p.sendFrame(prog, part)
		if ret != next {
			p.t.Fatalf("fragment %d of %v -> %v: verdict %d", i, in.Src, in.Dst, int32(ret))
		}
		out = append(out, b)
	}
	got, err := packet.Reassemble(out)
	p.do(err)
	exp, err := want.Bytes()
	p.do(err)
	if !bytes.Equal(got, exp) {
		q, err := packet.Parse(got)
		p.t.Errorf("%v -> %v came out as %v -> %v, %v\n got % x\nwant % x", in.Src, in.Dst, q.Src, q.Dst, err, got[:64], exp[:64])
	}
}

func TestFragmentsFollowTheirFirst(t *testing.T) {
	each(t, func(t *testing.T, p *programs, f family, proto lb.Protocol) {
		for _, p.flags = range []uint32{0, checksumComplete} {
			for i := range uint32(3) {
				c := port(f.client, uint16(20000+i)+uint16(p.flags))
				in := packet.Packet{Src: c, Dst: f.vip, Protocol: proto, Flags: packet.SYN, Payload: bytes.Repeat([]byte{1, 2, 3}, 1000)}
				out := in
				out.Dst = f.servers[(i+3*p.flags)%3]
				p.whole(p.TcIngress, in, out, 100+i)
				back := packet.Packet{Src: out.Dst, Dst: c, Protocol: proto, Flags: packet.SYN | packet.ACK, Payload: in.Payload}
				out = back
				out.Src = f.vip
				p.whole(p.TcEgress, back, out, 200+i)
			}
		}
		if d := p.drops(); len(d) != 0 {
			t.Errorf("drops %v", d)
		}
	})
}

func TestMasqueradedFragments(t *testing.T) {
	for _, f := range families() {
		p := load(t)
		p.backend(1, f.servers[0], 1)
		p.pool(1, bpf.LBRuleRULE_CURSOR, 0, 1)
		p.vip(f.vip, lb.UDP, 1)
		p.masquerade(f, nodes[f.name], lb.UDP)
		p.ports(5000)
		in := packet.Packet{Src: f.client, Dst: f.vip, Protocol: lb.UDP, Payload: bytes.Repeat([]byte{1, 2, 3}, 1000)}
		mid := in
		mid.Dst = f.servers[0]
		p.whole(p.TcIngress, in, mid, 7)
		out := mid
		out.Src = nodePort(f, 5000)
		p.whole(p.TcEgress, mid, out, 7)
		back := packet.Packet{Src: f.servers[0], Dst: nodePort(f, 5000), Protocol: lb.UDP, Payload: in.Payload}
		mid = back
		mid.Dst = f.client
		p.whole(p.TcIngress, back, mid, 8)
		out = mid
		out.Src = f.vip
		p.whole(p.TcEgress, mid, out, 8)
	}
}

func TestALaterFragmentWaitsForItsFirst(t *testing.T) {
	each(t, func(t *testing.T, p *programs, f family, proto lb.Protocol) {
		in := packet.Packet{Src: f.client, Dst: f.vip, Protocol: proto, Flags: packet.SYN, Payload: make([]byte, 2000)}
		frame, err := in.Bytes()
		p.do(err)
		parts, err := packet.Fragment(frame, 512, 9)
		p.do(err)
		for _, part := range parts[1:] {
			if ret, _ := p.sendFrame(p.TcIngress, part); ret != drop {
				t.Errorf("verdict %d, want it kept", int32(ret))
			}
		}
		if n := p.held(); n != len(parts)-1 {
			t.Errorf("%d fragments kept, want %d", n, len(parts)-1)
		}
		if d := p.drops(); len(d) != 0 {
			t.Errorf("drops %v: they are not lost", d)
		}
		ret, out := p.sendFrame(p.TcIngress, parts[0])
		if ret != next || len(out) != len(parts[0]) || !bytes.Equal(out[len(out)-100:], parts[0][len(out)-100:]) {
			t.Errorf("the first: verdict %d, %d bytes of %d", int32(ret), len(out), len(parts[0]))
		}
		if n := p.held(); n != 0 {
			t.Errorf("%d fragments still kept", n)
		}
	})
}

func (p *programs) held() (n int) {
	var k bpf.LBHeldKey
	var v []byte
	it := p.Held.Iterate()
	for it.Next(&k, &v) {
		n++
	}
	p.do(it.Err())
	return n
}

func TestALaterFragmentThatIsTooLongIsLost(t *testing.T) {
	for _, f := range families() {
		p := load(t)
		p.backend(1, f.servers[0], 1)
		p.pool(1, bpf.LBRuleRULE_CURSOR, 0, 1)
		p.vip(f.vip, lb.UDP, 1)
		in := packet.Packet{Src: f.client, Dst: f.vip, Protocol: lb.UDP, Payload: make([]byte, 5000)}
		frame, err := in.Bytes()
		p.do(err)
		parts, err := packet.Fragment(frame, 2048, 9)
		p.do(err)
		if ret, _ := p.sendFrame(p.TcIngress, parts[1]); ret != drop {
			t.Errorf("verdict %d, want drop", int32(ret))
		}
		if d := p.drops(); d[bpf.LBDropReasonDROP_FRAGMENT] != 1 || len(d) != 1 {
			t.Errorf("drops %v", d)
		}
		ret, out := p.sendFrame(p.TcIngress, parts[0])
		if ret != next || bytes.Equal(out, parts[0]) {
			t.Errorf("the first: verdict %d, not translated", int32(ret))
		}
	}
}

func TestAFragmentOfNoConnectionIsNotReset(t *testing.T) {
	for _, f := range families() {
		p := load(t)
		p.backend(1, f.servers[0], 1)
		p.pool(1, bpf.LBRuleRULE_CURSOR, 0, 1)
		p.vip(f.vip, lb.TCP, 1)
		in := packet.Packet{Src: f.client, Dst: f.vip, Protocol: lb.TCP, Flags: packet.ACK, Payload: make([]byte, 2000)}
		frame, err := in.Bytes()
		p.do(err)
		parts, err := packet.Fragment(frame, 512, 9)
		p.do(err)
		for i, part := range parts {
			if ret, _ := p.sendFrame(p.TcIngress, part); ret != drop {
				t.Errorf("%s: fragment %d: verdict %d, want drop", f.name, i, int32(ret))
			}
		}
	}
}

func TestFragmentsOfOthersPass(t *testing.T) {
	each(t, func(t *testing.T, p *programs, f family, proto lb.Protocol) {
		in := packet.Packet{Src: f.client, Dst: port(f.servers[3], 9), Protocol: proto, Flags: packet.ACK, Payload: make([]byte, 2000)}
		frame, err := in.Bytes()
		p.do(err)
		parts, err := packet.Fragment(frame, 512, 9)
		p.do(err)
		slices.Reverse(parts)
		for _, part := range parts {
			for _, prog := range []*ebpf.Program{p.TcIngress, p.TcEgress} {
				if ret, out := p.sendFrame(prog, part); ret != next || !bytes.Equal(out, part) {
					t.Errorf("verdict %d", int32(ret))
				}
			}
		}
	})
}

// extension puts an IPv6 extension header before the transport header.
func extension(frame []byte, kind byte, header []byte) []byte {
	h := slices.Clone(header)
	h[0] = frame[14+6]
	out := slices.Concat(frame[:14+40], h, frame[14+40:])
	out[14+6] = kind
	binary.BigEndian.PutUint16(out[14+4:], binary.BigEndian.Uint16(out[14+4:])+uint16(len(h)))
	return out
}

func TestIPv6ExtensionHeadersAreFollowed(t *testing.T) {
	const hop, routing, fragment, destination, ah = 0, 43, 44, 60, 51
	pad := []byte{0, 0, 1, 4, 0, 0, 0, 0}
	long := slices.Concat([]byte{0, 7}, make([]byte, 62))
	done, onWay := []byte{0, 0, 4, 0, 0, 0, 0, 0}, []byte{0, 0, 4, 1, 0, 0, 0, 0}
	atomic := []byte{0, 0, 0, 0, 0, 0, 0, 9}
	f := families()[1]
	for _, tc := range []struct {
		name    string
		headers map[int][]byte // in the order of the slice, innermost first
		order   []int
		verdict uint32
	}{
		{"hop-by-hop options", map[int][]byte{hop: pad}, []int{hop}, next},
		{"destination options", map[int][]byte{destination: pad}, []int{destination}, next},
		{"all that may be there", map[int][]byte{destination: long, routing: done, fragment: atomic, hop: pad}, []int{destination, fragment, routing, hop}, next},
		{"a route that is not through", map[int][]byte{routing: onWay}, []int{routing}, drop},
		{"authentication", map[int][]byte{ah: pad}, []int{ah}, drop},
		{"too many bytes", map[int][]byte{destination: slices.Concat([]byte{0, 31}, make([]byte, 254))}, []int{destination}, drop},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := load(t)
			p.backend(1, f.servers[0], 1)
			p.pool(1, bpf.LBRuleRULE_CURSOR, 0, 1)
			p.vip(f.vip, lb.TCP, 1)
			in := packet.Packet{Src: f.client, Dst: f.vip, Protocol: lb.TCP, Flags: packet.SYN, Payload: []byte("hello")}
			want := in
			want.Dst = f.servers[0]
			frame, err := in.Bytes()
			p.do(err)
			exp, err := want.Bytes()
			p.do(err)
			for _, kind := range tc.order {
				frame, exp = extension(frame, byte(kind), tc.headers[kind]), extension(exp, byte(kind), tc.headers[kind])
			}
			ret, got := p.sendFrame(p.TcIngress, frame)
			if ret != tc.verdict || (ret == next && !bytes.Equal(got, exp)) {
				t.Errorf("verdict %d\n got % x\nwant % x", int32(ret), got, exp)
			}
			if d := p.drops(); tc.verdict == drop && (d[bpf.LBDropReasonDROP_EXTENSION] != 1 || len(d) != 1) {
				t.Errorf("drops %v", d)
			}
		})
	}
}
