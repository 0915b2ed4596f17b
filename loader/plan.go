// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"path"

	"github.com/waggle-lb/waggle/internal/nlx"
)

// hook is one place of a program: a device, a direction, and whether frames
// there have an Ethernet header.
type hook struct {
	ifindex int
	egress  bool
	l3      bool
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

// plan says which hooks the devices should have: both, but on lo and on ports
// of a bond or team, whose master sends and receives for them. A port of a
// bridge has both because netfilter may see packets there, before they reach
// the bridge (br_netfilter), and because a reply may cross the bridge from port
// to port.
func plan(links []nlx.Link, exclude []string) map[hook]string {
	out := make(map[hook]string)
	for _, l := range links {
		if l.Loopback || excluded(l.Name, exclude) {
			continue
		}
		if l.MasterKind == "bond" || l.MasterKind == "team" {
			continue
		}
		out[hook{l.Index, false, !l.Ethernet}] = l.Name
		out[hook{l.Index, true, !l.Ethernet}] = l.Name
	}
	return out
}

func excluded(name string, patterns []string) bool {
	for _, p := range patterns {
		if ok, err := path.Match(p, name); ok && err == nil {
			return true
		}
	}
	return false
}
