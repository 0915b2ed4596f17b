// SPDX-License-Identifier: Apache-2.0

package main

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/waggle-lb/waggle/internal/packet"
	"github.com/waggle-lb/waggle/lb"
)

func wantWords(t *testing.T, text string, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(text, w) {
			t.Errorf("no %q in:\n%s", w, text)
		}
	}
}

// TestRewrittenPacketsHaveTheChecksumsOfNewOnes compares what the model makes
// of a packet with the packet that a sender would have made.
func TestRewrittenPacketsHaveTheChecksumsOfNewOnes(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		proto := []lb.Protocol{lb.TCP, lb.UDP, lb.SCTP}[r.IntN(3)]
		p := packet.Packet{Src: end2(mapped([]byte{198, 18, 0, byte(r.IntN(256))}), uint16(r.IntN(65536))),
			Dst: end2(mapped([]byte{198, 18, 255, byte(r.IntN(256))}), 80), Protocol: proto, Flags: packet.ACK, Payload: make([]byte, r.IntN(50))}
		want := p
		want.Dst = end2(mapped([]byte{8, 0, byte(r.IntN(256)), byte(r.IntN(256))}), uint16(r.IntN(65536)))
		if proto == lb.SCTP {
			want.Dst = end2(want.Dst.Addr().As16(), 80)
		}
		in, err := p.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		out, err := want.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		q, ok := addresses(in, 0x0800, ethLen)
		if !ok || q.transport() != showsPorts {
			t.Fatalf("not read: % x", in)
		}
		q.rewrite(destination, want.Dst.Addr().As16(), want.Dst.Port())
		if !slices.Equal(q.frame, out) {
			t.Fatalf("%v -> %v to %v\n got % x\nwant % x", p.Src, p.Dst, want.Dst, q.frame, out)
		}
		if err := sums(q.frame, ethLen); err != nil {
			t.Error(err)
		}
		q.frame[ethLen+13]++
		if sums(q.frame, ethLen) == nil {
			t.Error("a wrong checksum is taken for right")
		}
	}
}

func TestARuleThatWasNeverMetIsNamed(t *testing.T) {
	c := coverage{}
	for _, rule := range rules[1:] {
		c[rule] = 1
	}
	if got := c.missing(); !slices.Equal(got, rules[:1]) {
		t.Errorf("missing %q, want %q", got, rules[:1])
	}
}
