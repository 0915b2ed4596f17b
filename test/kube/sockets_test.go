// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package kube_test

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// hostSockets is the annotation that leaves pods' sockets of a Service alone.
const hostSockets = "waggle.dev/socket-lb: host"

// TestSockets is about what sockets are led, and by which packets that shows.
func TestSockets(t *testing.T) {
	runLines(t, []line{{name: "a pod's socket is led, unless the Service says host", run: func(e *e2e) {
		s := e.service("led", "").backends(e.pods()[0])
		e.sends(e.pods()[1], s, true)
		for _, annotation := range []string{hostSockets, "waggle.dev/socket-lb: all", hostSockets, "waggle.dev/socket-lb: none"} {
			s.annotations = annotation
			s.apply("")
			e.sends(e.pods()[1], s, annotation != hostSockets)
			e.sends(e.nodes[0], s, true)
		}
	}}})
}

// TestHostSockets is TestSemantics where packets of pods are translated.
func TestHostSockets(t *testing.T) {
	runLinesWith(t, options{sockets: "host"}, append(semantics(), line{name: "a pod's socket is left alone, the node's is led", run: func(e *e2e) {
		s := e.service("led", "").backends(e.pods()[0])
		e.sends(e.pods()[1], s, false)
		e.sends(e.nodes[0], s, true)
	}}))
}

// sends waits until packets of a client of the first node need nothing, or are translated
// there. In any case it is told that it is connected to the cluster IP.
func (e *e2e) sends(c client, s *service, led bool) {
	e.eventually(fmt.Sprintf("%s is led: %v", c.addr(e.v6), led), func() error {
		conn, _, err := dial(c, "tcp", s.vip(), 0)
		if err != nil {
			return err
		}
		defer conn.Close()
		if got := conn.RemoteAddr().String(); got != s.vip().String() {
			e.fail("it is connected to %s, want %s", got, s.vip())
		}
		out, err := e.nodes[0].output(exec.Command(waggle, "flows", "-o", "json", "--pin-path", e.nodes[0].pins()))
		if err != nil {
			e.fail("waggle flows: %v: %s", err, out)
		}
		if translated := strings.Contains(out, strconv.Quote(conn.LocalAddr().String())); translated == led {
			return fmt.Errorf("its packets are translated: %v", translated)
		}
		return nil
	})
}

// TestNodePortAddresses is about what processes of nodes reach at which of the node's own
// addresses.
func TestNodePortAddresses(t *testing.T) {
	runLinesWith(t, options{nodePorts: map[string]string{
		"node1": "localhost," + join(podNets), // there the bridge has its address
		"node2": "all",
	}}, ownAddressLines())
}

func ownAddressLines() []line {
	lines := []line{
		{name: "a pod's loopback addresses are its own", run: (*e2e).podsOwnLoopback},
		{name: "a socket bound to a loopback address reaches processes of its node alone", run: func(e *e2e) {
			n := e.nodes[1]
			c := bound{n.host, e.loopback()[0]}
			s := e.service("bound", "type: NodePort").backends(n.hostPod())
			at := netip.AddrPortFrom(c.at, s.nodePort(n, 0).Port())
			e.reaches(c, at, n.hostPod())
			s.backends(n.pods[0])
			e.fails(c, at)
			e.reaches(n, at, n.pods[0])
		}},
		{name: "clients of loopback addresses have affinity", run: func(e *e2e) {
			s := e.service("sticky", "type: NodePort, sessionAffinity: ClientIP").backends(e.pods()[1:5]...)
			for i, network := range networks {
				pods := make(map[string]bool)
				for _, a := range e.accepted(e.nodes[1]) {
					pods[e.sticksBy(network, e.nodes[1], netip.AddrPortFrom(a, s.nodePort(e.nodes[1], i).Port()))] = true
				}
				if len(pods) != 1 {
					e.fail("one client is led to %v by %s", slices.Collect(maps.Keys(pods)), network)
				}
			}
		}},
	}
	for _, policy := range []string{"Cluster", "Local"} {
		for _, where := range []string{"pods", "processes of nodes"} {
			for _, at := range []string{"", ", from loopback addresses"} {
				lines = append(lines, line{name: "externalTrafficPolicy=" + policy + " leads to " + where + at, run: func(e *e2e) {
					to := []*pod{e.pods()[0], e.pods()[3]}
					if where != "pods" {
						to = []*pod{e.nodes[0].hostPod(), e.nodes[1].hostPod()}
					}
					e.ownAddresses(e.service("own", "type: NodePort, externalTrafficPolicy: "+policy).backends(to...), to, at != "")
				}})
			}
		}
	}
	return lines
}

// bound is a client whose sockets are bound to an address.
type bound struct {
	*host
	at netip.Addr
}

func (b bound) DialWith(ctx context.Context, d *net.Dialer, network, address string) (net.Conn, error) {
	d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(b.at, 0))
	if network == "udp" {
		d.LocalAddr = net.UDPAddrFromAddrPort(netip.AddrPortFrom(b.at, 0))
	}
	return b.host.DialWith(ctx, d, network, address)
}

// loopback are some addresses that each network namespace has for itself.
func (e *e2e) loopback() (out []netip.Addr) {
	if e.v6 {
		return []netip.Addr{netip.IPv6Loopback()}
	}
	for _, text := range []string{"127.0.0.1", "127.0.0.2", "127.255.255.254"} {
		out = append(out, netip.MustParseAddr(text))
	}
	return out
}

// accepted are the addresses at which a node serves node ports to itself.
func (e *e2e) accepted(n *node) []netip.Addr {
	switch n.number {
	case 1:
		return append(e.loopback(), podAddr(1, 1, e.v6))
	case 2:
		return append(e.loopback(), podAddr(2, 1, e.v6), n.addr(e.v6))
	}
	return []netip.Addr{n.addr(e.v6)}
}

// ownAddresses has each node ask itself at all of its addresses: those of loopback, or
// the others.
func (e *e2e) ownAddresses(s *service, pods []*pod, loopback bool) {
	port := s.nodePort(e.nodes[0], 0).Port()
	for _, n := range e.nodes {
		e.reaches(n, s.vip(), pods...) // else the kernel refuses, who knows of nothing yet
		accepted, own := e.accepted(n), []netip.Addr{n.addr(e.v6), podAddr(n.number, 1, e.v6)}
		if loopback {
			own = e.loopback()
		}
		for _, a := range own {
			if at := netip.AddrPortFrom(a, port); slices.Contains(accepted, a) {
				e.reaches(n, at, pods...)
			} else {
				e.refuses(n, at)
			}
		}
	}
}

func (e *e2e) podsOwnLoopback() {
	s := e.service("lo", "type: NodePort").backends(e.pods()[0])
	for _, p := range []*pod{e.pods()[1], e.pods()[4]} {
		at := netip.AddrPortFrom(e.loopback()[0], s.nodePort(p.node, 0).Port())
		e.reaches(p.node, at, e.pods()[0])
		e.refuses(p, at)
		own := *p
		own.v4, own.v6 = at.Addr(), at.Addr()
		stop := e.serve(&own, at.Port())
		e.reaches(p, at, &own)
		stop() // its key is that of other pods too
	}
}
