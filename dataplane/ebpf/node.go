// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"net/netip"
	"path"
	"slices"

	"github.com/waggle-lb/waggle/internal/nlx"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/maps/nodeaddrs"
	"github.com/waggle-lb/waggle/maps/prefixes"
)

// applyNode makes the maps say what a snapshot says of this machine. What it says of
// addresses and devices is followAddrs' and followDevices'.
func (s *state) applyNode(node *lb.Node) error {
	if err := s.t.pods.Sync(s.node.Pods, node.Pods); err != nil {
		return err
	}
	if err := prefixes.WriteServiceRanges(s.t.ranges, node.ServiceRanges); err != nil {
		return err
	}
	s.node = *node
	return nil
}

// changeNode is applyNode for a generation that packets see; the rest follows at
// once.
func (d *Dataplane) changeNode(node *lb.Node) error {
	s := d.state
	if s.node.Equal(node) {
		return nil
	}
	if err := s.applyNode(node); err != nil {
		return err
	}
	now, err := d.watcher.Read()
	if err != nil {
		return err
	}
	if _, _, err := followAddrs(s, now.Addrs); err != nil {
		return err
	}
	return followDevices(s, now, d.loader.XDP())
}

// followAddrs tells the programs which addresses the machine has, and which of them
// serve node ports.
func followAddrs(s *state, addrs []netip.Addr) (added, removed []netip.Addr, err error) {
	list := make([]nodeaddrs.Addr, len(addrs))
	for i, a := range addrs {
		list[i] = nodeaddrs.Addr{Addr: a, Ports: within(a, s.node.NodePorts)}
		if list[i].Ports {
			s.usePeer(a)
		}
	}
	return s.t.nodeAddrs.Sync(list)
}

func within(a netip.Addr, networks []netip.Prefix) bool {
	return slices.ContainsFunc(networks, func(p netip.Prefix) bool { return p.Contains(a) })
}

// sendsForPods reports whether a device, or the bridge that it is a port of, is one
// by which pods send.
func sendsForPods(l nlx.Link, names map[int]string, patterns []string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		for _, name := range []string{l.Name, names[l.Master]} {
			if ok, err := path.Match(pattern, name); ok && err == nil && name != "" {
				return true
			}
		}
		return false
	})
}
