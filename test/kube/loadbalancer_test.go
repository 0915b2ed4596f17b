// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package kube_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/waggle-lb/waggle/internal/kubetest"
)

// TestLoadBalancers has the lines of "LoadBalancers" and "LoadBalancers
// ExternalTrafficPolicy: Local". The load balancer is a route of the outside client
// that leads to one node. Left out are
//   - "should handle load balancer cleanup finalizer for service": a controller's.
func TestLoadBalancers(t *testing.T) { runLines(t, balancerLines()) }

func balancerLines() []line {
	lines := []line{
		{name: "should be able to change the type and ports of a TCP service", run: func(e *e2e) { e.changePorts("tcp") }},
		{name: "should be able to change the type and ports of a UDP service", run: func(e *e2e) { e.changePorts("udp") }},
		{name: "should only allow access from service loadbalancer source ranges", run: (*e2e).sourceRanges},
		{name: "should only allow access from service loadbalancer source ranges (from the node)", run: func(e *e2e) {
			own := fmt.Sprintf("loadBalancerSourceRanges: [%q]", inHost(e.nodes[0].addr(e.v6)))
			s := e.service("ranges", "type: LoadBalancer, "+own).backends(e.pods()[0], e.pods()[3])
			at := s.balancer(e.external())
			e.reaches(e.nodes[0], at, e.pods()[0], e.pods()[3])
			e.silent(e.nodes[1], at)
		}},
		{name: "should be able to create LoadBalancer Service without NodePort and change it", run: (*e2e).withoutNodePort},
	}
	for _, policy := range []string{"Local", "Cluster"} {
		spec := "type: LoadBalancer, externalTrafficPolicy: " + policy
		lines = append(lines,
			line{name: "should have session affinity work for LoadBalancer service with " + policy + " traffic policy [LinuxOnly]", run: func(e *e2e) {
				at := e.balanced(spec+", sessionAffinity: ClientIP", e.pods()...).at
				for _, network := range networks {
					e.sticksBy(network, e.outside, at)
				}
			}},
			line{name: "should be able to switch session affinity for LoadBalancer service with " + policy + " traffic policy [LinuxOnly]", run: func(e *e2e) {
				e.switchAffinity(spec, policy)
			}},
			line{name: "should not have connectivity disruption during rolling update with externalTrafficPolicy=" + policy, run: func(e *e2e) {
				e.rollingUpdate(spec)
			}},
		)
	}
	const cycles = "should be able to preserve UDP traffic when server pod cycles for a LoadBalancer service on "
	for where, pods := range map[string][2]int{"different nodes": {0, 3}, "the same nodes": {0, 1}} {
		lines = append(lines, line{name: cycles + where, run: func(e *e2e) {
			b := e.balanced("type: LoadBalancer")
			e.cycle(b.service, e.udpSocket(e.outside, b.at), e.pods()[pods[0]], e.pods()[pods[1]])
		}})
	}
	return append(lines, localPolicy()...)
}

// inHost is the network of one address.
func inHost(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// balanced is a Service behind a load balancer.
type balanced struct {
	*service
	at netip.AddrPort
}

// balanced makes one that the outside client reaches by the first node.
func (e *e2e) balanced(spec string, pods ...*pod) balanced {
	s := e.service("balanced", spec).backends(pods...)
	b := balanced{s, s.balancer(e.external())}
	e.via(e.nodes[0], b.at.Addr())
	return b
}

// balancers gives the Service addresses of several load balancers.
func (s *service) balancers(at ...netip.AddrPort) {
	text := ""
	for _, a := range at {
		text += fmt.Sprintf("{ip: %q}, ", a.Addr())
	}
	s.e.api.UpdateStatus(s.e.t, "Service", s.e.ns, s.name, "loadBalancer: {ingress: ["+text+"]}")
}

// changePorts takes a Service through the types, and changes its ports.
func (e *e2e) changePorts(network string) {
	pods := []*pod{e.pods()[0], e.pods()[3]}
	s := e.service("mutable", "").backends(pods...)
	e.only(network, e.pods()[2], s.vip(), pods...)

	s.apply("type: NodePort")
	nodePort := s.nodePortBy(network, e.nodes[1])
	e.only(network, e.outside, nodePort, pods...)

	s.apply("type: LoadBalancer")
	at := s.balancer(e.external())
	e.only(network, e.outside, at, pods...)
	e.only(network, e.outside, s.nodePortBy(network, e.nodes[1]), pods...)

	// another node port
	nodePort = s.nodePortBy(network, e.nodes[1])
	free := nodePort.Port()
	e.eventually("a free node port", func() error { // others take ports meanwhile
		free++
		return e.tryApply("services", s.name, s.yamlOf(80, "type: LoadBalancer", network, free))
	})
	s.refresh()
	moved := netip.AddrPortFrom(nodePort.Addr(), free)
	e.only(network, e.outside, moved, pods...)
	e.unreachable(network, e.outside, nodePort)
	e.only(network, e.outside, at, pods...)

	// another port
	e.try(e.tryApply("services", s.name, s.yamlOf(81, "type: LoadBalancer", network, free)))
	at81 := netip.AddrPortFrom(at.Addr(), 81)
	e.only(network, e.outside, at81, pods...)
	e.only(network, e.outside, moved, pods...)
	e.refusedBy(network, e.outside, at)
	e.refusedBy(network, e.pods()[2], s.vip())

	// nobody there, and somebody again
	s.endpoints()
	e.refusedBy(network, e.outside, at81)
	e.refusedBy(network, e.outside, moved)
	s.endpoints(s.ready(pods...)...)
	e.only(network, e.outside, at81, pods...)

	s.apply("type: ClusterIP")
	e.api.UpdateStatus(e.t, "Service", e.ns, s.name, "loadBalancer: null")
	e.only(network, e.pods()[2], s.vip(), pods...)
	e.unreachable(network, e.outside, moved)
	e.unreachable(network, e.outside, at81)
}

// yamlOf is the Service with another port, and a node port of one network.
func (s *service) yamlOf(port int, spec, network string, nodePort uint16) string {
	ports := map[string]string{"tcp": "", "udp": ""}
	ports[network] = fmt.Sprintf(", nodePort: %d", nodePort)
	return fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: %s}
spec: {%s, ipFamilies: [%s], ports: [
  {name: tcp, protocol: TCP, port: %d, targetPort: %d%s}, {name: udp, protocol: UDP, port: %d, targetPort: %d%s}]}`,
		s.name, spec, s.families, port, s.target, ports["tcp"], port, s.target, ports["udp"])
}

// sourceRanges lets in one pod, then another, everybody, nobody, and everybody.
func (e *e2e) sourceRanges() {
	server := []*pod{e.pods()[1], e.pods()[4]}
	first, second := e.pods()[0], e.pods()[3]
	ranges := func(list ...any) string {
		text := ""
		for _, p := range list {
			text += fmt.Sprintf("%q, ", p)
		}
		return "type: LoadBalancer, loadBalancerSourceRanges: [" + text + "]"
	}
	halves, nobody := []any{"0.0.0.0/1", "128.0.0.0/1"}, "255.0.0.0/32"
	if e.v6 {
		halves, nobody = []any{"::/1", "8000::/1"}, "ffff::/128"
	}
	s := e.service("ranges", ranges(inHost(first.addr(e.v6)), inHost(first.node.addr(e.v6)))).backends(server...)
	at := s.balancer(e.external())
	e.reaches(first, at, server...)
	e.allSilent([]netip.AddrPort{at}, second, e.outside)
	e.reaches(second, s.vip(), server...) // a cluster IP is open

	s.apply(ranges(inHost(second.addr(e.v6)), inHost(e.outside.addr(e.v6))))
	e.reaches(second, at, server...)
	e.reaches(e.outside, at, server...)
	e.allSilent([]netip.AddrPort{at}, first)
	for _, n := range e.nodes { // node ports are open
		e.only("tcp", first, s.nodePortBy("tcp", n), server...)
	}

	s.apply(ranges(halves...))
	for _, c := range []client{first, second, e.outside} {
		e.reaches(c, at, server...)
	}
	s.apply(ranges(nobody))
	e.allSilent([]netip.AddrPort{at}, first, second, e.outside)
	s.apply(ranges())
	for _, c := range []client{first, second, e.outside} {
		e.reaches(c, at, server...)
	}
}

func (e *e2e) withoutNodePort() {
	pods := []*pod{e.pods()[0], e.pods()[3]}
	s := e.service("no-node-port", "").backends(pods...)
	s.apply("type: LoadBalancer, allocateLoadBalancerNodePorts: false")
	if n := s.object.Int("spec", "ports", 0, "nodePort"); n != 0 {
		e.fail("it has node port %d", n)
	}
	at := s.balancer(e.external())
	e.reaches(e.outside, at, pods...)
	s.apply("type: LoadBalancer, allocateLoadBalancerNodePorts: true")
	e.reaches(e.outside, at, pods...)
	for _, network := range networks {
		e.only(network, e.outside, s.nodePortBy(network, e.nodes[2]), pods...)
	}
}

// switchAffinity turns it on and off.
func (e *e2e) switchAffinity(spec, policy string) {
	here := e.pods()
	if policy == "Local" {
		here = e.nodes[0].pods
	}
	b := e.balanced(spec, e.pods()...)
	for range 2 {
		for _, network := range networks {
			e.only(network, e.outside, b.at, here...)
		}
		b.apply(spec + ", sessionAffinity: ClientIP")
		for _, network := range networks {
			e.sticksBy(network, e.outside, b.at)
		}
		b.apply(spec + ", sessionAffinity: None")
	}
	for _, network := range networks {
		e.only(network, e.outside, b.at, here...)
	}
}

// rollingUpdate replaces the pods of both nodes, one after the other, as a Deployment
// does that starts the new one before it ends the old one.
func (e *e2e) rollingUpdate(spec string) {
	old := []*pod{e.pods()[0], e.pods()[3]}
	b := e.balanced(spec)
	stops := make(map[*pod]func())
	for _, p := range old {
		stops[p] = e.serve(p, b.target)
	}
	b.endpoints(b.ready(old...)...)
	e.reaches(e.outside, b.at)
	f := e.traffic(b.at, e.outside, e.pods()[2], e.pods()[5])
	for round := range 4 {
		i := round % 2
		gone := old[i]
		at := slices.Index(gone.node.pods, gone)
		next := gone.node.pods[(at+1)%podsEach]
		stops[next] = e.serve(next, b.target)
		old[i] = next
		b.endpoints(append(b.ready(old...), e.endpoint(gone, kubetest.Draining))...)
		for _, c := range []client{e.outside, e.pods()[2], e.pods()[5]} {
			e.never(c, b.at, gone)
		}
		f.turn() // those who had found the old one are done
		stops[gone]()
		b.endpoints(b.ready(old...)...)
		f.turn()
	}
	f.succeeded()
}

// never waits until a pod answers no more.
func (e *e2e) never(c client, at netip.AddrPort, p *pod) {
	for _, network := range networks {
		e.eventually(fmt.Sprintf("%s is not led to %s any more", c.addr(e.v6), p.name), func() error {
			seen, err := answers(network, c, at)
			if err == nil && slices.Contains(seen, p.name) {
				return fmt.Errorf("answers come from %v", seen)
			}
			return err
		})
	}
}

// localBalanced is the spec of a Service whose balancer is to ask nodes with endpoints.
const localBalanced = "type: LoadBalancer, externalTrafficPolicy: Local"

// localPolicy are the lines of "LoadBalancers ExternalTrafficPolicy: Local".
func localPolicy() []line {
	return []line{
		{name: "should work for type=LoadBalancer", run: func(e *e2e) {
			b := e.balanced(localBalanced, e.pods()[0])
			if r := e.reaches(e.outside, b.at, e.pods()[0]); r.source != e.outside.addr(e.v6) {
				e.fail("the pod sees %s, want the client's %s", r.source, e.outside.addr(e.v6))
			}
		}},
		{name: "should only target nodes with endpoints", run: (*e2e).targetNodes},
		{name: "should target all nodes with endpoints", run: func(e *e2e) {
			b := e.balanced(localBalanced, e.pods()[0], e.pods()[1], e.pods()[3])
			for n, pods := range map[*node][]*pod{e.nodes[0]: {e.pods()[0], e.pods()[1]}, e.nodes[1]: {e.pods()[3]}} {
				e.via(n, b.at.Addr())
				for _, network := range networks {
					e.only(network, e.outside, b.at, pods...)
				}
			}
		}},
		{name: "should work from pods", run: func(e *e2e) {
			b := e.balanced(localBalanced, e.pods()[0])
			for _, c := range []*pod{e.pods()[1], e.pods()[3]} {
				if r := e.reaches(c, b.at, e.pods()[0]); r.source != c.addr(e.v6) {
					e.fail("the pod sees %s, want the client's %s", r.source, c.addr(e.v6))
				}
			}
			b.serve(e.pods()[4])
			b.endpoints(b.ready(e.pods()[0], e.pods()[4])...) // clients in pods reach all
			for _, c := range []*pod{e.pods()[1], e.pods()[3]} {
				e.reaches(c, b.at, e.pods()[0], e.pods()[4])
			}
		}},
		{name: "should work from pods (from the node)", run: func(e *e2e) {
			b := e.balanced(localBalanced, e.pods()[0])
			for _, n := range e.nodes {
				e.reaches(n, b.at, e.pods()[0])
			}
		}},
	}
}

// targetNodes leads the outside client to an address by each node.
func (e *e2e) targetNodes() {
	s := e.service("local", localBalanced)
	var at []netip.AddrPort // by each node
	for _, n := range e.nodes {
		vip := e.external()
		at = append(at, netip.AddrPortFrom(vip, 80))
		e.via(n, vip)
	}
	s.balancers(at...)
	for i, p := range []*pod{e.pods()[0], e.pods()[3], e.nodes[2].hostPod()} {
		s.backends(p).refresh()
		e.reaches(e.outside, at[i], p)
		for n, node := range e.nodes {
			e.checked(s, node, map[bool]int{true: 1}[n == i])
		}
		e.allSilent(slices.Delete(slices.Clone(at), i, i+1), e.outside)
	}
}
