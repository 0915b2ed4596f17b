// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package lab_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/waggle-lb/waggle/internal/netlab"
)

// unassign takes an address from the director's loopback device.
func unassign(t *testing.T, ns *netlab.Namespace, addr netip.Addr) {
	t.Helper()
	lo, err := ns.Netlink().LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	a, err := netlink.ParseAddr(netip.PrefixFrom(addr, addr.BitLen()).String())
	if err != nil {
		t.Fatal(err)
	}
	if err := ns.Netlink().AddrDel(lo, a); err != nil {
		t.Fatal(err)
	}
}

func TestTheLogSaysWhatKeepsPacketsAway(t *testing.T) {
	s := started(t, 1, false)
	remedy := func(vip netip.Addr) string {
		return "ip addr add " + netip.PrefixFrom(vip, vip.BitLen()).String() + " dev lo"
	}
	for _, vip := range vips {
		s.logs(1, "level=WARN", "neither on this machine nor routed here", vip.Addr().String(), "and 1 more", remedy(vip.Addr()))
	}
	s.logs(0, "forwarding is off")

	// the remedies, as they are written
	for _, vip := range vips {
		if err := s.Director.Run(command("ip", strings.Fields(remedy(vip.Addr()))[1:]...)); err != nil {
			t.Fatal(err)
		}
	}
	s.edit(s.text()) // without backends nothing is forwarded
	for _, sysctl := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"} {
		if err := s.Director.SetSysctl(sysctl, "0"); err != nil {
			t.Fatal(err)
		}
	}
	s.write(s.text(s.Servers()...))
	s.logs(1, "level=WARN", "forwarding is off", "sysctl -w net.ipv4.ip_forward=1")
	s.logs(1, "level=WARN", "forwarding is off", "sysctl -w net.ipv6.conf.all.forwarding=1")

	unassign(t, s.Director, netlab.VIP4)
	s.logs(2, "level=WARN", "neither on this machine", "subject="+netlab.VIP4.String())
	if n := count(s.logText(), "level=WARN"); n != 5 {
		t.Errorf("%d warnings, want 5: each cause once, and the VIP that went away again", n)
	}
}
