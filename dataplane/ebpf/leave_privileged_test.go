// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package ebpf

import (
	"net/netip"
	"testing"

	"github.com/waggle-lb/waggle/dataplane/conformance"
	"github.com/waggle-lb/waggle/lb"
)

// TestADataplaneThatLeaves keeps its flows, as their services say, and passes on what
// begins and what is of no flow: to VIPs, other ports of theirs, and their range.
func TestADataplaneThatLeaves(t *testing.T) {
	r := newRig(t, nil)
	svc := serve("a", []int{1, 2}, 1)
	svc.Lost = lb.LostReset
	snap := r.snapshot(svc).WithNode(lb.Node{ServiceRanges: []netip.Prefix{netip.MustParsePrefix("198.18.0.0/16")}})
	if rep := r.d.Apply(snap); rep.Err != nil || len(rep.Failed) > 0 {
		t.Fatalf("apply: %+v", rep)
	}
	client, server := r.connect(1)
	other := numbered(18, 1, 81)
	for _, to := range []netip.AddrPort{other, vipAt(9)} {
		syn := conformance.Packet{From: conformance.Client, Src: r.newClient(), Dst: to, Protocol: lb.TCP, Flags: conformance.SYN}
		if out := r.Send(syn); out.Verdict == lb.Pass {
			t.Errorf("to %s, before: %+v", to, out)
		}
	}

	r.do(r.Restart())
	l := newLeaving(r.d, "")
	r.do(l.Follow(snap))
	r.wantStays(client, 1, server)
	for _, to := range []netip.AddrPort{vipAt(1), other, vipAt(9)} {
		for _, p := range []conformance.Packet{
			{Protocol: lb.TCP, Flags: conformance.SYN}, {Protocol: lb.TCP, Flags: conformance.ACK}, {Protocol: lb.UDP},
		} {
			p.From, p.Src, p.Dst = conformance.Client, r.newClient(), to
			if out := r.Send(p); out.Verdict != lb.Pass {
				t.Errorf("%+v: %+v, want it passed on", p, out)
			}
		}
	}
	if n, err := l.Live(); n != 1 || err != nil {
		t.Errorf("%d flows, %v, want 1", n, err)
	}
	rest := serve("a", []int{3 - server}, 1)
	rest.Lost = lb.LostReset
	r.do(l.Follow(r.snapshot(rest)))
	data := conformance.Packet{From: conformance.Client, Src: client, Dst: vipAt(1), Protocol: lb.TCP, Flags: conformance.ACK}
	if out := r.Send(data); out.Verdict == lb.Forward {
		t.Errorf("data of a flow whose backend is lost: %+v", out)
	}
	if n, err := l.Live(); n != 0 || err != nil {
		t.Errorf("%d flows, %v, want none", n, err)
	}
}
