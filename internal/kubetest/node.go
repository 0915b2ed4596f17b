// SPDX-License-Identifier: Apache-2.0

package kubetest

import (
	"net/netip"
	"testing"
)

// Node is what waggle reads of a node.
type Node struct {
	Name string
	Zone string // label topology.kubernetes.io/zone; "" is none
	// Addrs are the InternalIPs; the first is of the primary family.
	Addrs []netip.Addr
	// PodCIDRs are the ranges of its pods' addresses, which cannot change.
	PodCIDRs []netip.Prefix
}

// SetNode makes a node, or changes it into this one, as its kubelet would.
// It is removed when the test ends.
func (s *Server) SetNode(t testing.TB, n Node) Object {
	t.Helper()
	labels := map[string]any{"kubernetes.io/hostname": n.Name}
	if n.Zone != "" {
		labels["topology.kubernetes.io/zone"] = n.Zone
	}
	spec := make(map[string]any)
	if len(n.PodCIDRs) > 0 {
		var cidrs []any
		for _, p := range n.PodCIDRs {
			cidrs = append(cidrs, p.String())
		}
		spec["podCIDR"], spec["podCIDRs"] = cidrs[0], cidrs
	}
	s.apply(t, "", Object{
		"apiVersion": "v1", "kind": "Node",
		"metadata": map[string]any{"name": n.Name, "labels": labels},
		"spec":     spec,
	})
	addrs := []any{}
	for _, a := range n.Addrs {
		addrs = append(addrs, map[string]any{"type": "InternalIP", "address": a.String()})
	}
	return s.patchStatus(t, "Node", "", n.Name, Object{"addresses": addrs})
}
