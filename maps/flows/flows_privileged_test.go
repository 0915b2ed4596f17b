// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package flows

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/maps/maptest"
)

// conn is a flow from client through vip to backend, as two entries.
func conn(client, vip, backend string) (fk bpf.LBFlowKey, f bpf.LBFlow, rk bpf.LBFlowKey, r bpf.LBFlow) {
	c, v, b := netip.MustParseAddrPort(client), netip.MustParseAddrPort(vip), netip.MustParseAddrPort(backend)
	fk = bpf.LBFlowKey{
		Saddr: c.Addr().As16(), Sport: c.Port(), Daddr: v.Addr().As16(), Dport: v.Port(),
		Proto: 6, Position: uint8(bpf.LBPositionPOSITION_E1),
	}
	f = bpf.LBFlow{Addr: b.Addr().As16(), Port: b.Port(), State: uint8(bpf.LBFlowStateSTATE_ESTABLISHED), Packets: 3}
	rk = bpf.LBFlowKey{
		Saddr: b.Addr().As16(), Sport: b.Port(), Daddr: c.Addr().As16(), Dport: c.Port(),
		Proto: 6, Position: uint8(bpf.LBPositionPOSITION_E4),
	}
	r = bpf.LBFlow{Addr: v.Addr().As16(), Port: v.Port(), State: uint8(bpf.LBFlowStateSTATE_REPLY), Packets: 2}
	return fk, f, rk, r
}

func TestForwardEntriesAreYieldedAndFindTheirReplies(t *testing.T) {
	table := Table{Map: maptest.New(t, "flows", 64)}
	put := func(k bpf.LBFlowKey, f bpf.LBFlow) {
		t.Helper()
		if err := table.Map.Put(k, f); err != nil {
			t.Fatal(err)
		}
	}
	fk, f, rk, r := conn("198.18.0.1:1000", "203.0.113.10:80", "192.0.2.2:8080")
	put(fk, f)
	put(rk, r)
	fk6, f6, rk6, r6 := conn("[2001:db8::1]:1000", "[2001:db8::10]:80", "[2001:db8:1::2]:8080")
	put(fk6, f6)
	put(rk6, r6)
	alone, fa, _, _ := conn("198.18.0.2:1000", "203.0.113.10:80", "192.0.2.2:8080")
	put(alone, fa)
	// the same client and backend through another VIP: the reply is the first's
	other, fo, _, _ := conn("198.18.0.1:1000", "203.0.113.11:80", "192.0.2.2:8080")
	put(other, fo)
	want := map[bpf.LBFlowKey]bool{fk: true, fk6: true, alone: false, other: false}
	replies := map[bpf.LBFlowKey]bpf.LBFlow{fk: r, fk6: r6}
	n := 0
	err := table.EachForward(func(k *bpf.LBFlowKey, f *bpf.LBFlow) error {
		n++
		got, ok, err := table.Reply(k, f)
		if has, known := want[*k]; !known || ok != has || err != nil || ok && got != replies[*k] {
			t.Errorf("reply of %s: %+v, %v, %v; want one: %v", AddrPort(k.Saddr, k.Sport), got, ok, err, has)
		}
		return nil
	})
	if err != nil || n != len(want) {
		t.Errorf("%d entries, error %v, want %d", n, err, len(want))
	}
	if got := ReplyKey(&fk6, &f6); got != rk6 {
		t.Errorf("key of the reply %+v, want %+v", got, rk6)
	}
	stop := errors.New("stop")
	if err := table.EachForward(func(*bpf.LBFlowKey, *bpf.LBFlow) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("error %v, want that of the caller", err)
	}
}

func TestSourceIsWhatTheBackendSees(t *testing.T) {
	const resourced, masquerade = uint8(bpf.LBFlowFlagsFLOW_RESOURCED), uint8(bpf.LBFlowFlagsFLOW_MASQUERADE)
	node, other := netip.MustParseAddrPort("192.0.2.1:1024"), netip.MustParseAddrPort("198.18.0.1:5000")
	client, server := netip.MustParseAddrPort("198.18.0.1:1000"), netip.MustParseAddrPort("192.0.2.2:8080")
	key := func(src, dst netip.AddrPort, p bpf.LBPosition) bpf.LBFlowKey {
		return bpf.LBFlowKey{Saddr: src.Addr().As16(), Sport: src.Port(), Daddr: dst.Addr().As16(), Dport: dst.Port(), Proto: 6, Position: uint8(p)}
	}
	for _, tc := range []struct {
		name  string
		flags uint8
		want  netip.AddrPort
	}{
		{"the client", 0, client},
		{"another port of the client", resourced, other},
		{"this node", masquerade, node},
		{"this node, for another port of the client", resourced | masquerade, node},
	} {
		t.Run(tc.name, func(t *testing.T) {
			table := Table{Map: maptest.New(t, "flows", 64)}
			fk, f, _, r := conn(client.String(), "203.0.113.10:80", server.String())
			f.Flags, r.Flags = tc.flags, tc.flags
			seen := client
			if tc.flags&resourced != 0 {
				seen = other
			}
			r1 := fk
			r1.Position = uint8(bpf.LBPositionPOSITION_R1)
			reply := bpf.LBFlow{State: uint8(bpf.LBFlowStateSTATE_REPLY)}
			port, masq := reply, reply
			port.Addr, port.Port = seen.Addr().As16(), seen.Port()
			masq.Addr, masq.Port = node.Addr().As16(), node.Port()
			for k, v := range map[bpf.LBFlowKey]bpf.LBFlow{
				fk: f, r1: port, key(server, seen, bpf.LBPositionPOSITION_E4): r, key(seen, server, bpf.LBPositionPOSITION_E2): masq,
			} {
				if err := table.Map.Put(k, v); err != nil {
					t.Fatal(err)
				}
			}
			got, ok, err := table.Reply(&fk, &f)
			if err != nil || !ok || got != r {
				t.Fatalf("reply %+v, %v, %v", got, ok, err)
			}
			if src, err := table.Source(&fk, &f, &got); err != nil || src != tc.want {
				t.Errorf("source %s, %v, want %s", src, err, tc.want)
			}
		})
	}
}

func TestAddressesAreUnmapped(t *testing.T) {
	for _, s := range []string{"192.0.2.2:8080", "[2001:db8::2]:1", "[::]:0"} {
		a := netip.MustParseAddrPort(s)
		if got := AddrPort(a.Addr().As16(), a.Port()); got != a {
			t.Errorf("%s comes back as %s", a, got)
		}
	}
}
