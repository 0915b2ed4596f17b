// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package cni_test

import (
	"fmt"
	"strings"

	"github.com/waggle-lb/waggle/internal/netlab"
)

// uplink connects a client outside of the cluster with the node.
func (s *scene) uplink() *host {
	s.Helper()
	return s.uplinkOver("eth0", 1, "")
}

// uplinkOver does it by so many cables, eth0 and so on, and by the device that
// both ends make of them.
func (s *scene) uplinkOver(device string, cables int, make string) *host {
	s.Helper()
	client := s.host("client", "203.0.113.2", "fd00:113::2")
	for i := range cables {
		s.ip(s.node.Namespace, fmt.Sprintf("link add eth%d type veth peer name eth%d netns {client}", i, i))
	}
	for _, end := range []struct {
		ns        *netlab.Namespace
		own, peer string
	}{{s.node.Namespace, "1", "2"}, {client.Namespace, "2", "1"}} {
		s.ip(end.ns, make+strings.NewReplacer("DEV", device, "OWN", end.own, "PEER", end.peer).Replace(`
			link set eth0 up
			addr add 203.0.113.OWN/24 dev DEV
			addr add fd00:113::OWN/64 dev DEV nodad
			link set DEV up
			route add default via 203.0.113.PEER
			route add default via fd00:113::PEER
		`))
	}
	return client
}

// The way to the client is a VLAN, or a bond, or one on the other.
func uplinkVLAN(s *scene) {
	s.routedPods(s.uplinkOver("eth0.10", 1, "link add link eth0 name eth0.10 type vlan id 10\n"))
}

const bond = `
	link add bond0 type bond mode balance-rr miimon 100
	link set eth0 master bond0
	link set eth1 master bond0
	link set eth1 up
`

func uplinkBond(s *scene) { s.routedPods(s.uplinkOver("bond0", 2, bond)) }

func uplinkBondVLAN(s *scene) {
	s.routedPods(s.uplinkOver("bond0.10", 2, bond+"link set bond0 up\nlink add link bond0 name bond0.10 type vlan id 10\n"))
}

// routedPod adds a pod behind a veth pair of its own: the node's end has no
// address, and a host route leads there.
func (s *scene) routedPod(n *node, role, v4, v6 string) *host {
	s.Helper()
	p := s.host(role, v4, v6)
	s.ip(n.Namespace, strings.NewReplacer("POD", role, "V4", v4, "V6", v6).Replace(`
		link add POD type veth peer name eth0 netns {POD}
		link set POD up
		addr add fe80::ecee:eeff:feee:eeee/64 dev POD nodad
		route add V4 dev POD
		route add V6 dev POD
	`))
	s.sysctl(n.Namespace, "net/ipv4/conf/"+role+"/proxy_arp=1", "net/ipv4/neigh/"+role+"/proxy_delay=0")
	s.ip(p.Namespace, strings.NewReplacer("V4", v4, "V6", v6).Replace(`
		link set eth0 up
		addr add V4/32 dev eth0
		addr add V6/128 dev eth0 nodad
		route add 169.254.1.1 dev eth0 scope link
		route add default via 169.254.1.1 dev eth0
		route add default via fe80::ecee:eeff:feee:eeee dev eth0
	`))
	s.serve(p)
	return p
}

// Every pod has a veth pair without an IPv4 address on the node's side, and a
// gateway that answers by proxy ARP: as Calico does it.
func routed(s *scene) { s.routedPods(s.uplink()) }

// The same, with the VIPs on the node's loopback device.
func routedAssigned(s *scene) {
	s.assignVIPs(s.node)
	s.routedPods(s.uplink())
}

func (s *scene) routedPods(client *host) {
	s.Helper()
	a := s.routedPod(s.node, "pod1", "10.244.1.2", "fd00:244:1::2")
	b := s.routedPod(s.node, "pod2", "10.244.1.3", "fd00:244:1::3")
	s.settle([]*host{client, a, b}, a, b)
	s.everyWay(client, a, b)
	s.droppedOnly("redirect")
}

// everyWay starts the daemon on the first node and goes all ways that two of
// its pods have: to another pod, to itself, from outside, past the VIP.
func (s *scene) everyWay(client, a, b *host, more ...service) {
	s.Helper()
	onlyA, onlyB, both := service{80, []*host{a}, false}, service{81, []*host{b}, false}, service{82, []*host{a, b}, false}
	s.node.start(rules(append(more, onlyA, onlyB, both)...))
	s.reaches(a, onlyB, false)
	s.reaches(b, onlyA, false)
	s.reaches(a, onlyA, true)
	s.reaches(client, both, false)
	s.direct(a, b)
	s.direct(client, a)
	s.reaches(a, onlyB, false)
}
