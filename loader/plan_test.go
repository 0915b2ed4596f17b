// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waggle-lb/waggle/internal/nlx"
)

func TestPlan(t *testing.T) {
	links := []nlx.Link{
		{Index: 1, Name: "lo", Loopback: true, Ethernet: true},
		{Index: 2, Name: "eth0", Ethernet: true},
		{Index: 3, Name: "br0", Kind: "bridge", Ethernet: true},
		{Index: 4, Name: "veth4", Master: 3, MasterKind: "bridge", Ethernet: true},
		{Index: 5, Name: "bond0", Kind: "bond", Ethernet: true},
		{Index: 6, Name: "eth1", Master: 5, MasterKind: "bond", Ethernet: true},
		{Index: 7, Name: "wg0", Kind: "wireguard"},
		{Index: 8, Name: "eth2", Master: 9, MasterKind: "vrf", Ethernet: true},
		{Index: 10, Name: "skip0", Ethernet: true},
	}
	want := map[hook]string{
		{2, false, false, false}: "eth0", {2, true, false, false}: "eth0",
		{3, false, false, false}: "br0", {3, true, false, false}: "br0",
		{4, false, false, false}: "veth4", {4, true, false, false}: "veth4",
		{5, false, false, false}: "bond0", {5, true, false, false}: "bond0",
		{7, false, true, false}: "wg0", {7, true, true, false}: "wg0",
		{8, false, false, false}: "eth2", {8, true, false, false}: "eth2",
	}
	if d := cmp.Diff(want, plan(links, []string{"skip*"}), cmp.AllowUnexported(hook{})); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	why := make(map[string]string)
	for _, l := range links {
		if w := without(l, links, []string{"skip*"}); w != "" {
			why[l.Name] = w
		}
	}
	if d := cmp.Diff(map[string]string{"lo": "loopback", "eth1": "member of bond0", "skip0": "excluded by --exclude-devices"}, why); d != "" {
		t.Errorf("devices without programs (-want +got):\n%s", d)
	}
	if err := CheckPatterns([]string{"a["}); err == nil {
		t.Error("a broken pattern is taken")
	}
}

func TestPinNamesComeBack(t *testing.T) {
	for _, h := range []hook{{ifindex: 1}, {ifindex: 12, egress: true}, {ifindex: 3, l3: true}, {ifindex: 4, egress: true, l3: true}, xdpHook(5)} {
		if got, ok := parsePin(pinOf(h)); !ok || got != h {
			t.Errorf("%+v -> %s -> %+v %v", h, pinOf(h), got, ok)
		}
	}
	for _, name := range []string{"eth0", "7", "7-sideways", "x-ingress", "7-xdp-l3"} {
		if _, ok := parsePin(name); ok {
			t.Errorf("%q is taken for a link", name)
		}
	}
}
