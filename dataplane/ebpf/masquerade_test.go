// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waggle-lb/waggle/internal/nlx"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/maps/devices"
)

func TestParsePortRange(t *testing.T) {
	for text, want := range map[string]PortRange{
		"1024-65535": {1024, 65535}, "8080": {8080, 8080}, "80-80": {80, 80}, "0-65535": {0, 65535},
	} {
		if got, err := ParsePortRange(text); err != nil || got != want {
			t.Errorf("%q: %v, %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "-", "1-", "-1", "2-1", "1-65536", "65536", "a-b", "1-2-3", "1 - 2", "+1"} {
		want := `: write FIRST-LAST, such as 1024-65535`
		if got, err := ParsePortRange(text); err == nil || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%q: %v, %v, want %q", text, got, err, want)
		}
	}
}

// ranges lists ports as their ranges.
func ranges(ports []uint16) (out []PortRange) {
	for _, p := range ports {
		if n := len(out); n > 0 && out[n-1].Last+1 == p {
			out[n-1].Last = p
		} else {
			out = append(out, PortRange{p, p})
		}
	}
	return out
}

func TestMasqueradePortsAreNobodyElses(t *testing.T) {
	for _, c := range []struct {
		from            PortRange
		local, reserved string
		want            []PortRange
	}{
		{DefaultMasqueradePorts, "32768\t60999\n", "\n", []PortRange{{1024, 29999}, {61000, 65535}}},
		{DefaultMasqueradePorts, "1024 65000", "65100,65200-65210", []PortRange{{65001, 65099}, {65101, 65199}, {65211, 65535}}},
		{PortRange{30000, 40000}, "50000 60000", "", []PortRange{{32768, 40000}}},
		{PortRange{1024, 1279}, "32768 60999", "", []PortRange{{1024, 1279}}},
		{PortRange{65000, 65535}, "32768 60999", "65535", []PortRange{{65000, 65534}}},
	} {
		ports, err := masqueradePorts(c.from, c.local, c.reserved)
		if err != nil {
			t.Errorf("%v less %q and %q: %v", c.from, c.local, c.reserved, err)
		}
		if diff := cmp.Diff(c.want, ranges(ports)); diff != "" {
			t.Errorf("%v less %q and %q (-want +got):\n%s", c.from, c.local, c.reserved, diff)
		}
	}
}

func TestTooFewMasqueradePortsAreRefused(t *testing.T) {
	for _, c := range []struct {
		from            PortRange
		local, reserved string
		want            string
	}{
		{PortRange{1024, 1278}, "32768 60999", "", "of the masquerade ports 1024-1278 only 255 are nobody else's: " +
			"widen --masquerade-ports, or narrow net.ipv4.ip_local_port_range (32768-60999)"},
		{DefaultMasqueradePorts, "1024 65535", "", "of the masquerade ports 1024-65535 only 0 are nobody else's: " +
			"widen --masquerade-ports, or narrow net.ipv4.ip_local_port_range (1024-65535)"},
		{DefaultMasqueradePorts, "32768", "", `net.ipv4.ip_local_port_range is "32768": two numbers expected`},
		{DefaultMasqueradePorts, "32768 60999", "a", `read the kernel's port ranges: port range "a": write FIRST-LAST, such as 1024-65535`},
	} {
		if ports, err := masqueradePorts(c.from, c.local, c.reserved); err == nil || err.Error() != c.want {
			t.Errorf("%v less %q and %q: %d ports, %v\nwant %s", c.from, c.local, c.reserved, len(ports), err, c.want)
		}
	}
}

func TestDevicesAreMasqueradedWithTheNextBestAddress(t *testing.T) {
	addrs := func(s string) (out []netip.Addr) {
		for _, a := range strings.Fields(s) {
			out = append(out, netip.MustParseAddr(a))
		}
		return out
	}
	state := nlx.State{
		Uplinks: addrs("192.0.2.1 2001:db8::1"),
		Links: []nlx.Link{
			{Index: 1, Name: "lo", Sources: addrs("203.0.113.10 203.0.113.9")},
			{Index: 2, Name: "eth0", Sources: addrs("192.0.2.1 192.0.2.7 2001:db8::1")},
			{Index: 3, Name: "eth1", Sources: addrs("203.0.113.10 198.51.100.1 198.51.100.2")},
			{Index: 4, Name: "pod", Sources: nil},
			{Index: 5, Name: "only-vips", Sources: addrs("203.0.113.10 2001:db8:f::10")},
			{Index: 6, Name: "br0", Kind: "bridge", MAC: [6]byte{2, 6}, Sources: addrs("198.51.100.9")},
			{Index: 7, Name: "port", Master: 6, MAC: [6]byte{2, 7}},
			{Index: 8, Name: "bonded", Master: 4, MAC: [6]byte{2, 8}},
		},
	}
	vips := addrs("203.0.113.10 2001:db8:f::10")
	isVIP := func(a netip.Addr) bool { return slices.Contains(vips, a) }
	v4, v6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	same := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
	want := map[uint32]devices.Device{
		1: {Addr4: netip.MustParseAddr("203.0.113.9"), Addr6: v6},
		2: {Addr4: v4, Addr6: v6},
		3: {Addr4: netip.MustParseAddr("198.51.100.1"), Addr6: v6},
		4: {Addr4: v4, Addr6: v6},
		5: {Addr4: v4, Addr6: v6},
		6: {Addr4: netip.MustParseAddr("198.51.100.9"), Addr6: v6, Bridge: true},
		7: {Addr4: v4, Addr6: v6, PortOf: [6]byte{2, 6}},
		8: {Addr4: v4, Addr6: v6},
	}
	if diff := cmp.Diff(want, deviceTable(state, nil, nil, isVIP), same); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}

	t.Run("no default route: any other", func(t *testing.T) {
		state := nlx.State{Links: []nlx.Link{{Index: 2, Sources: addrs("192.0.2.1")}, {Index: 4}}}
		want := map[uint32]devices.Device{2: {Addr4: v4}, 4: {Addr4: v4}}
		if diff := cmp.Diff(want, deviceTable(state, nil, nil, isVIP), same); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
	t.Run("nothing but a VIP: that", func(t *testing.T) {
		state := nlx.State{Links: []nlx.Link{{Index: 2, Sources: vips}, {Index: 4}}}
		want := map[uint32]devices.Device{2: {Addr4: vips[0], Addr6: vips[1]}, 4: {Addr4: vips[0], Addr6: vips[1]}}
		if diff := cmp.Diff(want, deviceTable(state, nil, nil, isVIP), same); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

func TestAServiceIsMasqueradedOnlyIfThereArePorts(t *testing.T) {
	svc := &lb.Service{ID: lb.ServiceID{Name: "web", Family: lb.IPv4}, Scheduler: "rr"}
	svc.Frontends = []lb.Frontend{{Addr: netip.MustParseAddrPort("203.0.113.10:80"), Protocol: lb.TCP}}
	all, some := &Dataplane{}, &Dataplane{ports: []uint16{5000}}
	for _, d := range []*Dataplane{all, some} {
		if err := d.Supports(svc); err != nil {
			t.Errorf("%d ports: %v", len(d.ports), err)
		}
	}
	svc.SetMasquerade(lb.MasqueradeAlways)
	if err := some.Supports(svc); err != nil {
		t.Errorf("with a port: %v", err)
	}
	if err := all.Supports(svc); err == nil || !strings.Contains(err.Error(), "service web/ipv4: masquerade:") {
		t.Errorf("without a port: %v", err)
	}
}
