// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package cni_test

import (
	"fmt"
	"strings"
)

// bridgeOf makes the bridge that the node's pods are at.
func (s *scene) bridgeOf(n *node, prefix4, prefix6 string) {
	s.Helper()
	s.ip(n.Namespace, strings.NewReplacer("P4", prefix4, "P6", prefix6).Replace(`
		link add cni0 type bridge
		link set cni0 up
		addr add P4.1/24 dev cni0
		addr add P6::1/64 dev cni0 nodad
	`))
}

// bridgedPod adds a pod whose veth pair is a port of the bridge. last is the
// last part of its addresses.
func (s *scene) bridgedPod(n *node, role, prefix4, prefix6, last string) *host {
	s.Helper()
	p := s.host(role, prefix4+"."+last, prefix6+"::"+last)
	s.ip(n.Namespace, strings.NewReplacer("POD", role).Replace(`
		link add POD type veth peer name eth0 netns {POD}
		link set POD master cni0
		link set POD up
	`))
	s.ip(p.Namespace, strings.NewReplacer("P4", prefix4, "P6", prefix6, "N", last).Replace(`
		link set eth0 up
		addr add P4.N/24 dev eth0
		addr add P6::N/64 dev eth0 nodad
		route add default via P4.1
		route add default via P6::1
	`))
	s.serve(p)
	return p
}

// Pods are ports of one bridge: a reply goes from port to port.
func bridge(s *scene) {
	client, a, b := s.bridged(false)
	s.settle([]*host{client, a, b}, a, b)
	s.everyWay(client, a, b)
	s.droppedOnly("redirect")
}

// What crosses the bridge meets the node's policy too, as Kubernetes asks for
// with bridges.
func bridgeNetfilter(s *scene) {
	client, a, b := s.bridged(true)
	s.policy(s.node, a, b)
	s.settle([]*host{client, a, b}, a, b)
	s.everyWay(client, a, b)
	s.policyHeld(s.node)
	s.refuses(s.node, a, b)
	s.rename(client, a, b)
	s.droppedOnly("redirect")
}

// rename gives the bridge another Ethernet address, as it takes by itself when
// a port with a lower one comes: ports must know it.
func (s *scene) rename(client, a, b *host) {
	s.Helper()
	s.ip(s.node.Namespace, "link set cni0 address 02:00:00:00:00:77")
	for _, p := range []*host{a, b} {
		s.ip(p.Namespace, "neigh flush dev eth0")
	}
	svc := service{81, []*host{b}, false}
	s.settle([]*host{client, a}, a, b)
	for _, v6 := range []bool{false, true} {
		s.eventually("a connection by the new address", func() error {
			before := s.counter(s.node.Namespace, "invalid")
			if _, err := visit(a, "udp", vip(svc.port, v6), 0); err != nil {
				return err
			}
			if _, err := visit(a, "tcp", vip(svc.port, v6), 1); err != nil {
				return err
			}
			if got := s.counter(s.node.Namespace, "invalid") - before; got != 0 {
				return fmt.Errorf("%d packets were invalid", got)
			}
			return nil
		})
	}
	s.reaches(a, svc, false)
}

// Only what is routed meets the policy: of a connection from pod to pod it
// would see one direction. All others are as they must be.
func bridgePolicy(s *scene) {
	client, a, b := s.bridged(false)
	s.policy(s.node, a, b)
	s.settle([]*host{client, a, b}, a, b)
	both, self := service{80, []*host{a, b}, false}, service{81, []*host{a}, false}
	s.node.start(rules(both, self))
	s.reaches(client, both, false)
	s.reaches(a, self, true)
	s.direct(a, b)
	s.direct(client, b)
	s.policyHeld(s.node)
	s.refuses(s.node, client, a)
	s.droppedOnly("redirect")
}

// filterBridged says whether netfilter sees what crosses bridges.
func (s *scene) filterBridged(n *node, on bool) {
	s.Helper()
	value := fmt.Sprint(btoi(on))
	s.sysctl(n.Namespace, "net/bridge/bridge-nf-call-iptables="+value, "net/bridge/bridge-nf-call-ip6tables="+value)
}

func (s *scene) bridged(netfilter bool) (client, a, b *host) {
	s.Helper()
	client = s.uplink()
	s.bridgeOf(s.node, "10.244.1", "fd00:244:1")
	s.filterBridged(s.node, netfilter)
	a = s.bridgedPod(s.node, "pod1", "10.244.1", "fd00:244:1", "2")
	b = s.bridgedPod(s.node, "pod2", "10.244.1", "fd00:244:1", "3")
	return client, a, b
}
