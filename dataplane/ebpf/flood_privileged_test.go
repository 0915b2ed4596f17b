// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package ebpf

import (
	"encoding/binary"
	"testing"

	cilium "github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/internal/packet"
	"github.com/waggle-lb/waggle/lb"
)

// segments sends segments of many clients to one VIP, as fast as can be.
type segments struct {
	t     testing.TB
	prog  *cilium.Program
	frame []byte
	out   []byte
}

func newSegments(r *rig, vip int) *segments {
	frame, err := packet.Packet{Src: clientAt(1), Dst: vipAt(vip), Protocol: lb.TCP, Flags: packet.SYN}.Bytes()
	r.do(err)
	return &segments{t: r.t, prog: r.ingress, frame: frame, out: make([]byte, 512)}
}

// send sends a segment of the client with this address, and returns the number
// of the server that gets it, 0 if none does.
func (s *segments) send(client uint32, flags packet.Flag) int {
	const saddr, daddr, tcpFlags = 14 + 12, 14 + 16, 14 + 20 + 13
	binary.BigEndian.PutUint32(s.frame[saddr:], client) // checksums are only updated
	s.frame[tcpFlags] = byte(flags)
	opts := cilium.RunOptions{Data: s.frame, DataOut: s.out}
	ret, err := s.prog.Run(&opts)
	if err != nil {
		s.t.Fatal(err)
	}
	if b := opts.DataOut; int32(ret) == -1 && b[daddr] == 198 && b[daddr+1] == 19 {
		return int(binary.BigEndian.Uint16(b[daddr+2:]))
	}
	return 0
}

// A million SYNs of as many clients, in a flow table that is full to begin with:
// no established connection is lost, and a client that goes on gets through, at
// the latest with its second SYN.
func TestAFloodAgainstFullTables(t *testing.T) {
	const (
		established = 0x0a000000 // addresses of clients
		real        = 0x0b000000
		forged      = 0x64000000
		lasting     = 200_000 // of 262,144 flows
		syns        = 1_000_000
		roundTrip   = 10_000 // SYNs between a client's packets
	)
	r := newRig(t, map[string]uint32{"flows": uint32(bpf.LBLimitsMAX_FLOWS), "half_open": uint32(bpf.LBLimitsMAX_HALF_OPEN)})
	r.apply(serve("web", from(1, 4), 1))
	r.follow()
	s := newSegments(r, 1)
	servers := make([]uint8, lasting)
	for i := range uint32(lasting) {
		servers[i] = uint8(s.send(established+i, packet.SYN))
		if s.send(established+i, packet.ACK) != int(servers[i]) || servers[i] == 0 {
			t.Fatalf("connection %d was not made", i)
		}
	}
	flooded := uint32(0)
	flood := func(n int) {
		for range n {
			flooded++
			s.send(forged+flooded, packet.SYN)
		}
	}
	flood(int(bpf.LBLimitsMAX_FLOWS)/2 - lasting)
	clients, again := uint32(0), 0
	for flooded < syns {
		clients++
		for try := 1; ; try++ {
			server := s.send(real+clients, packet.SYN)
			flood(roundTrip)
			if server != 0 && s.send(real+clients, packet.ACK) == server {
				break
			}
			if again++; try == 2 {
				t.Fatalf("client %d is kept out", clients)
			}
		}
	}
	t.Logf("%d clients got through, %d with their second SYN", clients, again)
	for i := range uint32(lasting) {
		if got := s.send(established+i, packet.ACK); got != int(servers[i]) {
			t.Fatalf("established connection %d goes to %d, was at %d", i, got, servers[i])
		}
	}
	for i := uint32(1); i <= clients; i++ {
		if s.send(real+i, packet.ACK) == 0 {
			t.Fatalf("connection %d, made in the flood, is gone", i)
		}
	}
	r.wantExact("after the flood")
}
