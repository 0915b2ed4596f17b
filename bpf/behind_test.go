// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package bpf_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/internal/packet"
	"github.com/waggle-lb/waggle/lb"
)

// initChunk is the chunk that begins an association (RFC 9260, section 3.3.2); only its
// type counts here.
var initChunk = []byte{1, 0, 0, 4}

// TestWhatMayBeOthersIsPassedOnWhileTheyTranslate: segments of connections that are
// not ours go on to who stands behind the programs, whatever becomes of them
// otherwise; what begins something is ours as ever.
func TestWhatMayBeOthersIsPassedOnWhileTheyTranslate(t *testing.T) {
	p := load(t)
	p.ranges("198.18.255.0/24", "fd00:f::/64")
	gone := []netip.AddrPort{ap("198.18.255.99:80"), ap("[fd00:f::99]:80")}
	for i, f := range families() {
		id := uint32(2*i + 1)
		p.backend(id, f.servers[0], 1)
		p.pool(id, bpf.LBRuleRULE_HASH, 0, id) // one that would go on where its hash leads
		p.vip(f.vip, lb.TCP, id)
		p.vip(f.vip, lb.UDP, id)
		p.backend(id+1, port(f.servers[1], f.vip.Port()), 1)
		p.pool(id+1, bpf.LBRuleRULE_CURSOR, 0, id+1)
		p.vip(f.vip, lb.SCTP, id+1)
		for round, behind := range []bool{true, false, true} {
			word := uint32(0)
			if behind {
				word = 1
			}
			p.do(p.TakingOver.Set(word))
			f.client = port(f.client, uint16(20000+round)) // of no flow of the last round
			t.Run(fmt.Sprintf("%s/%d/%v", f.name, round, behind), func(t *testing.T) { toAll(t, p, f, gone[i], behind) })
		}
	}
}

func toAll(t *testing.T, p *programs, f family, gone netip.AddrPort, behind bool) {
	t.Helper()
	other := port(f.vip, 81)
	for _, c := range []struct {
		what string
		dst  netip.AddrPort
		in   packet.Packet
		// others: it is passed on as it is while somebody is behind
		others bool
	}{
		{"data to a frontend", f.vip, packet.Packet{Protocol: lb.TCP, Flags: packet.ACK}, true},
		{"a reset to a frontend", f.vip, packet.Packet{Protocol: lb.TCP, Flags: packet.RST}, true},
		{"SCTP data to a frontend", f.vip, packet.Packet{Protocol: lb.SCTP, Payload: cookieAck}, true},
		{"data to another port", other, packet.Packet{Protocol: lb.TCP, Flags: packet.ACK}, true},
		{"SCTP data to another port", other, packet.Packet{Protocol: lb.SCTP, Payload: cookieAck}, true},
		{"data to an address that is gone", gone, packet.Packet{Protocol: lb.TCP, Flags: packet.ACK}, true},
		{"a SYN to another port", other, packet.Packet{Protocol: lb.TCP, Flags: packet.SYN}, false},
		{"a SYN to an address that is gone", gone, packet.Packet{Protocol: lb.TCP, Flags: packet.SYN}, false},
		{"a datagram to an address that is gone", gone, packet.Packet{Protocol: lb.UDP, Payload: []byte("x")}, false},
		{"a SYN to a frontend", f.vip, packet.Packet{Protocol: lb.TCP, Flags: packet.SYN}, false},
		{"a datagram to a frontend", f.vip, packet.Packet{Protocol: lb.UDP, Payload: []byte("x")}, false},
		{"an association that begins", f.vip, packet.Packet{Protocol: lb.SCTP, Payload: initChunk}, false},
	} {
		c.in.Src, c.in.Dst = f.client, c.dst
		in, err := c.in.Bytes()
		p.do(err)
		ret, out := p.send(p.TcIngress, c.in)
		passed := ret == next && string(out) == string(in)
		if want := c.others && behind; passed != want {
			t.Errorf("%s: verdict %d, unchanged %v; passed on %v, want %v", c.what, int32(ret), string(out) == string(in), passed, want)
		}
	}
	// path MTU of what they have
	frame := to(t, f, gone.Addr())["an error about no flow"]
	ret, err := p.TcIngress.Run(&ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+64)})
	p.do(err)
	if (ret == next) != behind {
		t.Errorf("an error to an address that is gone: verdict %d", int32(ret))
	}
}
