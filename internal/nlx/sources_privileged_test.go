// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package nlx_test

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/internal/netlab"
)

// give adds an address with what makes it unfit as a source, or not.
func give(t *testing.T, node *netlab.Node, device, prefix string, change func(*netlink.Addr)) {
	t.Helper()
	link, err := node.Netlink().LinkByName(device)
	if err != nil {
		t.Fatal(err)
	}
	addr, err := netlink.ParseAddr(prefix)
	if err != nil {
		t.Fatal(err)
	}
	addr.Flags |= unix.IFA_F_NODAD
	change(addr)
	if err := node.Netlink().AddrAdd(link, addr); err != nil {
		t.Fatalf("add %s to %s: %v", prefix, device, err)
	}
}

func addrs(list ...string) (out []netip.Addr) {
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

func TestSourcesAreWhatOtherMachinesCanAnswer(t *testing.T) {
	node, w := newWatcher(t)
	plain := func(*netlink.Addr) {}
	scope := func(s netlink.Scope) func(*netlink.Addr) { return func(a *netlink.Addr) { a.Scope = int(s) } }
	give(t, node, "eth0", "192.0.2.9/32", plain)
	give(t, node, "eth0", "192.0.2.8/32", scope(netlink.SCOPE_LINK))
	give(t, node, "eth0", "192.0.2.7/32", scope(netlink.SCOPE_HOST))
	give(t, node, "eth0", "169.254.1.1/16", plain)
	give(t, node, "eth0", "2001:db8::9/128", plain)
	give(t, node, "eth0", "2001:db8::8/128", func(a *netlink.Addr) { a.ValidLft, a.PreferedLft = 3600, 0 })
	give(t, node, "eth0", "fe80::9/64", plain)
	give(t, node, "lo", "203.0.113.10/32", plain)
	s, err := w.Read()
	if err != nil {
		t.Fatal(err)
	}
	for device, want := range map[string][]netip.Addr{
		"eth0": append(addrs("192.0.2.9", "2001:db8::9"), node.V4, node.V6),
		"lo":   addrs("203.0.113.10"),
	} {
		l, ok := link(s, device)
		if !ok {
			t.Fatalf("no device %s", device)
		}
		got := slices.Clone(l.Sources)
		slices.SortFunc(got, netip.Addr.Compare)
		slices.SortFunc(want, netip.Addr.Compare)
		if !slices.Equal(got, want) {
			t.Errorf("%s: sources %v, want %v", device, got, want)
		}
	}
}

// TestTentativeAddressesAreNoSources: not before the kernel knows that nobody
// else has them.
func TestTentativeAddressesAreNoSources(t *testing.T) {
	node, w := newWatcher(t)
	for _, device := range []string{"all", "eth0"} {
		if err := node.SetSysctl("net/ipv6/conf/"+device+"/accept_dad", "1"); err != nil {
			t.Fatal(err)
		}
	}
	// as many probes as fit: it stays tentative until the lab is gone
	if err := node.SetSysctl("net/ipv6/conf/eth0/dad_transmits", "1000"); err != nil {
		t.Fatal(err)
	}
	give(t, node, "eth0", "2001:db8::7/64", func(a *netlink.Addr) { a.Flags &^= unix.IFA_F_NODAD })
	s, err := w.Read()
	if err != nil {
		t.Fatal(err)
	}
	l, _ := link(s, "eth0")
	tentative := netip.MustParseAddr("2001:db8::7")
	if slices.Contains(l.Sources, tentative) || !slices.Contains(s.Addrs, tentative) {
		t.Errorf("sources %v of the addresses %v", l.Sources, s.Addrs)
	}
}

func TestUplinksAreTheSourcesOfTheDefaultRoutes(t *testing.T) {
	node, w := newWatcher(t)
	give(t, node, "lo", "198.51.100.5/32", func(*netlink.Addr) {})
	uplinks := func() []netip.Addr {
		s, err := w.Read()
		if err != nil {
			t.Fatal(err)
		}
		return s.Uplinks
	}
	if got, want := uplinks(), []netip.Addr{node.V4, node.V6}; !slices.Equal(got, want) {
		t.Errorf("uplinks %v, want %v", got, want)
	}
	route := &netlink.Route{Gw: node.Gateway4.AsSlice(), Src: netip.MustParseAddr("198.51.100.5").AsSlice()}
	if err := node.Netlink().RouteReplace(route); err != nil {
		t.Fatal(err)
	}
	if got, want := uplinks(), append(addrs("198.51.100.5"), node.V6); !slices.Equal(got, want) {
		t.Errorf("a route that names its source: uplinks %v, want %v", got, want)
	}
	if err := node.Netlink().RouteDel(&netlink.Route{Gw: node.Gateway6.AsSlice()}); err != nil {
		t.Fatal(err)
	}
	if got, want := uplinks(), addrs("198.51.100.5"); !slices.Equal(got, want) {
		t.Errorf("no default route of IPv6: uplinks %v, want %v", got, want)
	}
	if err := node.DelDevice("eth0"); err != nil {
		t.Fatal(err)
	}
	if got := uplinks(); len(got) != 0 {
		t.Errorf("no default route at all: uplinks %v", got)
	}
}
