// SPDX-License-Identifier: Apache-2.0

package main

import (
	"slices"

	"github.com/waggle-lb/waggle/bpf"
)

const (
	vipMasquerade = uint32(bpf.LBVipFlagsVIP_MASQUERADE)
	vipOutsiders  = uint32(bpf.LBVipFlagsVIP_MASQUERADE_OUTSIDERS)
	vipNode       = uint32(bpf.LBVipFlagsVIP_MASQUERADE_NODE)
	vipLocal      = uint32(bpf.LBVipFlagsVIP_LOCAL)
	vipShort      = uint32(bpf.LBVipFlagsVIP_SHORT_CIRCUIT)
	vipRestricted = uint32(bpf.LBVipFlagsVIP_RESTRICTED)

	nodeAssigned = uint32(bpf.LBNodeAddrFlagsNODE_ADDR_ASSIGNED)
	nodePorts    = uint32(bpf.LBNodeAddrFlagsNODE_ADDR_PORTS)

	devicePod = uint8(bpf.LBDeviceFlagsDEVICE_POD)
)

func (m *model) isAssigned(a addr) bool { return m.nodeAddrs[a]&nodeAssigned != 0 }

func (m *model) servesNodePorts(a addr) bool { return m.nodeAddrs[a]&nodePorts != 0 }

// client is what asks, as far as a frontend cares.
type client string

const (
	outsider client = "an outsider"
	pod      client = "a pod"
	node     client = "this node"
)

func (m *model) clientOf(a arrival, p *pkt) client {
	within := func(n network) bool { return n.has(p.src) }
	byAddr := slices.ContainsFunc(m.podNetworks, within)
	switch {
	case a.dev.flags&devicePod != 0 && !byAddr:
		m.hit("client: a pod, by its device")
		return pod
	case byAddr && m.isAssigned(p.src):
		m.hit("client: a pod, and the address is ours")
		return pod
	case byAddr:
		m.hit("client: a pod, by its address")
		return pod
	case m.isAssigned(p.src):
		return node
	}
	return outsider
}

// terms are a frontend's for a client: the pool that it picks from, and whether the
// backend is to see this node.
type terms struct {
	pool       bpf.LBPools
	masquerade bool
}

// terms reads them off the table of docs/maps.md.
func (m *model) terms(a arrival, p *pkt, v bpf.LBVip) terms {
	has := func(flag uint32) bool { return v.Flags&flag != 0 }
	t := terms{poolCluster, has(vipMasquerade)}
	if has(vipLocal) {
		t.pool = poolLocal
	}
	if !has(vipOutsiders) && !has(vipNode) && !has(vipShort) {
		return t
	}
	c := m.clientOf(a, p)
	if has(vipShort) && has(vipLocal) {
		m.hit("policy: local, but not for clients on this node: " + string(c))
		if c != outsider {
			t.pool = poolCluster
		}
	}
	if has(vipOutsiders) {
		m.hit("masquerade: outsiders: " + string(c))
		t.masquerade = t.masquerade || c != pod
	}
	if has(vipNode) {
		m.hit("masquerade: this node: " + string(c))
		t.masquerade = t.masquerade || c == node
	}
	return t
}

// admits says whether a frontend takes new flows of an address.
func (m *model) admits(v bpf.LBVip, a addr) bool {
	if v.Flags&vipRestricted == 0 {
		return true
	}
	s := m.services[v.Service]
	if slices.ContainsFunc(s.sources, func(n network) bool { return n.has(a) }) {
		m.hit("restricted: within the service's networks")
		return true
	}
	m.hit("restricted: dropped")
	return false
}
