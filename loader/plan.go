// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"path"

	"github.com/waggle-lb/waggle/internal/nlx"
)

// hook is one place of a program: a device, a direction, whether frames there
// have no Ethernet header, or whether it is XDP's place before all others.
type hook struct {
	ifindex int
	egress  bool
	l3      bool
	xdp     bool
}

func (h hook) direction() string {
	switch {
	case h.xdp:
		return xdpSuffix
	case h.egress:
		return "egress"
	}
	return "ingress"
}

// CheckPatterns returns an error for a device pattern that path.Match refuses.
func CheckPatterns(patterns []string) error {
	for _, p := range patterns {
		if _, err := path.Match(p, ""); err != nil {
			return fmt.Errorf("device pattern %q: %w: write a name, or one with *, ? and [a-z]", p, err)
		}
	}
	return nil
}

// hooksOf are the places that a device has.
func hooksOf(l nlx.Link) (ingress, egress hook) {
	return hook{ifindex: l.Index, l3: !l.Ethernet}, hook{ifindex: l.Index, egress: true, l3: !l.Ethernet}
}

// plan says which hooks the devices should have: both, but on lo and on ports
// of a bond or team, whose master sends and receives for them. A port of a
// bridge has both because netfilter may see packets there, before they reach
// the bridge (br_netfilter), and because a reply may cross the bridge from port
// to port.
func plan(links []nlx.Link, exclude []string) map[hook]string {
	out := make(map[hook]string)
	for _, l := range links {
		if without(l, links, exclude) != "" {
			continue
		}
		ingress, egress := hooksOf(l)
		out[ingress], out[egress] = l.Name, l.Name
	}
	return out
}

// without says why a device of links is to have no programs; "" if it is to.
func without(l nlx.Link, links []nlx.Link, exclude []string) string {
	switch {
	case l.Loopback:
		return "loopback"
	case excluded(l.Name, exclude):
		return "excluded by --exclude-devices"
	case l.MasterKind != "bond" && l.MasterKind != "team":
		return ""
	}
	for _, m := range links {
		if m.Index == l.Master {
			return "member of " + m.Name
		}
	}
	return "member of a " + l.MasterKind
}

func excluded(name string, patterns []string) bool {
	for _, p := range patterns {
		if ok, err := path.Match(p, name); ok && err == nil {
			return true
		}
	}
	return false
}
