// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package kube_test

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/waggle-lb/waggle/internal/kubetest"
)

// TestSemantics is what the suite has no lines for, and clusters depend on: who is
// refused, who is dropped, whom backends see as the client, and what becomes of
// connections when things change.
//
// A pod of another node is an outsider at a node's port. Where --cluster-cidr tells pods,
// as at the first node, it is none, as with kube-proxy: so such a pod asks the others.
func TestSemantics(t *testing.T) { runLines(t, semantics()) }

func semantics() []line {
	return slices.Concat(addressLines, outwardLines(), hairpinLines, []line{restrictedLine}, endpointLines(), frontendLines, existingLines)
}

// The frontends that are reached from outside of the cluster too. They are served by the
// first node, as that is where routes to VIPs lead.
type outward struct {
	name string
	vip  bool // an address that is no node's
	// at makes a Service of this spec, and says where it is reached.
	at func(e *e2e, spec string) (*service, netip.AddrPort)
}

var outwards = []outward{
	{"a node port", false, func(e *e2e, spec string) (*service, netip.AddrPort) {
		s := e.service("outward", "type: NodePort"+spec)
		return s, s.nodePort(e.nodes[0], 0)
	}},
	{"a load balancer's address", true, func(e *e2e, spec string) (*service, netip.AddrPort) {
		s := e.service("outward", "type: LoadBalancer"+spec)
		return s, s.balancer(e.external())
	}},
	{"an external IP", true, func(e *e2e, spec string) (*service, netip.AddrPort) {
		at := netip.AddrPortFrom(e.external(), 80)
		return e.service("outward", fmt.Sprintf("externalIPs: [%q]%s", at.Addr(), spec)), at
	}},
}

// addressLines are about addresses and ports that no Service has, or is not given.
var addressLines = []line{
	{name: "a port that a cluster IP does not have is refused", run: func(e *e2e) {
		s := e.service("unknown", "").backends(e.pods()[0])
		for _, c := range []client{e.pods()[1], e.pods()[3], e.outside} {
			e.reaches(c, s.vip(), e.pods()[0])
			e.refuses(c, netip.AddrPortFrom(s.vip().Addr(), 81))
		}
	}},
	{name: "an address for cluster IPs that no Service has leads nowhere", run: func(e *e2e) {
		// The API server gives the first ones only to who asks for them. The default
		// route leads to who would answer.
		at := map[bool]string{false: "10.96.0.50", true: "fd00:10:96::32"}[e.v6]
		e.ownedOutside(netip.MustParseAddr(at), 80)
		for _, c := range []client{e.pods()[1], e.pods()[3]} {
			e.silent(c, netip.MustParseAddrPort(net.JoinHostPort(at, "80")))
		}
	}},
	{name: "an external IP that is not allowed keeps its owner", run: func(e *e2e) {
		at := netip.MustParseAddr(map[bool]string{false: "198.51.100.1", true: "2001:db8:1::1"}[e.v6])
		owner := e.ownedOutside(at, 80)
		s := e.service("hijack", fmt.Sprintf("externalIPs: [%q]", at)).backends(e.pods()[0])
		for _, c := range []client{e.pods()[1], e.pods()[3]} {
			e.reaches(c, s.vip(), e.pods()[0])
			e.reaches(c, netip.AddrPortFrom(at, 80), owner)
		}
	}},
	{name: "who is outside reaches a cluster IP by a node, and is masqueraded", run: func(e *e2e) {
		s := e.service("routed", "").backends(e.pods()[0], e.pods()[3])
		e.seenAs(e.nodes[0].masked(e), e.outside, s.vip(), e.pods()[0], e.pods()[3])
	}},
}

// ownedOutside gives the outside client an address at which it serves.
func (e *e2e) ownedOutside(a netip.Addr, port uint16) *pod {
	e.try(e.outside.AddAddr("lo", netip.PrefixFrom(a, a.BitLen())))
	owner := &pod{host: *e.outside}
	owner.v4, owner.v6 = a, a
	e.serve(owner, port)
	return owner
}

// restrictedLine is about source ranges.
var restrictedLine = line{name: "loadBalancerSourceRanges drops others, at load balancers' addresses alone", run: func(e *e2e) {
	external := netip.AddrPortFrom(e.external(), 80)
	admitted, pod := e.pods()[1], e.pods()[3]
	s := e.service("restricted", fmt.Sprintf("type: LoadBalancer, externalIPs: [%q], loadBalancerSourceRanges: [%q]",
		external.Addr(), netip.PrefixFrom(admitted.addr(e.v6), external.Addr().BitLen()))).backends(pod)
	at := s.balancer(e.external())
	e.reaches(admitted, at, pod)
	for _, c := range []client{e.pods()[2], e.pods()[4], e.outside} {
		e.silent(c, at)
		e.reaches(c, s.vip(), pod)
		e.reaches(c, external, pod)
		e.reaches(c, s.nodePort(e.nodes[0], 0), pod)
	}
}}

// hairpinLines are about pods that are their own backend.
var hairpinLines = []line{
	{name: "a pod reaches itself by a cluster IP", run: func(e *e2e) {
		s := e.service("hairpin", "").backends(e.pods()[0])
		e.hairpin(e.pods()[0], s.vip())
	}},
	{name: "a pod reaches itself by another node", run: func(e *e2e) {
		s := e.service("hairpin", "type: NodePort").backends(e.pods()[0])
		e.seenAs(e.nodes[1].masked(e), e.pods()[0], s.nodePort(e.nodes[1], 0), e.pods()[0])
	}},
}

// hairpin has a pod reach itself. Who connects by a socket that is led never leaves the
// pod, and is seen as it is; what comes back from the node has the node as its source.
func (e *e2e) hairpin(p *pod, at netip.AddrPort) {
	tcp := p.itself(e)
	if e.sockets() != "all" {
		tcp = p.node.masked(e)
	}
	e.seenBy("tcp", tcp, p, at, p)
	e.seenBy("udp", p.node.masked(e), p, at, p)
}

// outwardLines are those of each frontend that outsiders use.
func outwardLines() (out []line) {
	for _, o := range outwards {
		out = append(out, o.verdictLines()...)
		out = append(out, o.poolLines()...)
	}
	return out
}

const (
	internalLocally = ", " + internalLocal
	externalLocally = ", " + externalLocal
)

// verdictLines are about Services that have nobody for a client.
func (o outward) verdictLines() []line {
	return []line{
		{name: "without endpoints all are refused: " + o.name, run: func(e *e2e) {
			for spec, state := range map[string]kubetest.State{"": kubetest.NotReady, externalLocally + internalLocally: kubetest.Terminating} {
				s, at := o.at(e, spec)
				s.endpoints(e.endpoint(e.pods()[0], state))
				for _, c := range []client{e.pods()[0], e.outside} {
					e.refuses(c, s.vip()) // once it is served: a node port would be refused before
					e.refuses(c, at)
				}
				s.delete()
			}
		}},
		{name: "without local endpoints internalTrafficPolicy=Local drops at the cluster IP alone: " + o.name, run: func(e *e2e) {
			s, at := o.at(e, internalLocally)
			s.backends(e.pods()[3])
			for _, c := range []client{e.pods()[0], e.outside} {
				e.reaches(c, at, e.pods()[3])
				e.silent(c, s.vip())
			}
			e.reaches(e.pods()[4], s.vip(), e.pods()[3])
		}},
		{name: "without local endpoints externalTrafficPolicy=Local drops who comes from outside: " + o.name, run: func(e *e2e) {
			s, at := o.at(e, externalLocally)
			s.backends(e.pods()[3])
			e.reaches(e.pods()[0], at, e.pods()[3])
			e.reaches(e.pods()[0], s.vip(), e.pods()[3])
			e.reaches(e.outside, s.vip(), e.pods()[3])
			e.silent(e.outside, at)
		}},
	}
}

// poolLines are about who answers whom, and as what he sees it: with Cluster all
// backends answer, and see the node that picked; with Local who comes from outside is led
// to local ones and seen as it is, pods and the node itself are led to all.
func (o outward) poolLines() []line {
	var out []line
	for _, c := range []struct {
		policy, spec string
		run          func(e *e2e, s *service, at netip.AddrPort, both []*pod)
	}{{"Cluster", "", o.cluster}, {"Local", externalLocally, o.local}} {
		policy := "externalTrafficPolicy=" + c.policy
		name := policy + " at " + o.name
		out = append(out, line{name: name, run: func(e *e2e) {
			both := []*pod{e.pods()[0], e.pods()[3]}
			s, at := o.at(e, c.spec)
			c.run(e, s.backends(both...), at, both)
		}}, line{name: name + " (from the node)", run: func(e *e2e) {
			both := []*pod{e.pods()[0], e.pods()[3]}
			s, at := o.at(e, c.spec)
			s.backends(both...)
			e.seenAs(e.nodes[0].masked(e), e.nodes[0], at, both...)
		}}, line{name: name + " (from pods)", run: func(e *e2e) {
			both := []*pod{e.pods()[0], e.pods()[3]}
			s, at := o.at(e, c.spec)
			s.backends(both...)
			o.fromPods(e, c.policy == "Local", at, both)
		}}, line{name: "a pod reaches itself by " + o.name + ", " + policy, run: func(e *e2e) {
			s, at := o.at(e, c.spec)
			s.backends(e.pods()[0])
			if c.policy == "Cluster" {
				e.seenAs(e.nodes[0].masked(e), e.pods()[0], at, e.pods()[0])
				return
			}
			e.hairpin(e.pods()[0], at)
		}}, line{name: "a process of the node is the backend: " + o.name + ", " + policy, run: func(e *e2e) {
			p := e.nodes[0].hostPod()
			s, at := o.at(e, c.spec)
			s.backends(p)
			for _, c := range []client{e.pods()[0], e.pods()[3], e.outside} {
				e.reaches(c, at, p)
				e.reaches(c, s.vip(), p)
			}
		}})
	}
	return out
}

func (o outward) cluster(e *e2e, _ *service, at netip.AddrPort, both []*pod) {
	e.seenAs(e.nodes[0].masked(e), e.outside, at, both...)
	if !o.vip {
		e.seenAs(e.nodes[0].masked(e), e.pods()[4], at, both...)
		e.seenAs(e.nodes[0].masked(e), e.nodes[1], at, both...)
	}
}

// fromPods has a pod of each node connect that is met there.
func (o outward) fromPods(e *e2e, local bool, at netip.AddrPort, both []*pod) {
	for _, p := range []*pod{e.pods()[1], e.pods()[4]} {
		source := p.node.masked(e)
		if local {
			source = p.itself(e)
		}
		if o.vip || p.node == e.nodes[0] {
			e.seenAs(source, p, at, both...)
		}
	}
}

func (o outward) local(e *e2e, s *service, at netip.AddrPort, both []*pod) {
	e.seenAs(e.outside.itself(e), e.outside, at, both[0])
	if o.vip {
		return
	}
	e.seenAs(e.nodes[1].itself(e), e.nodes[1], at, both[0])
	e.seenAs(e.pods()[1].itself(e), e.pods()[1], s.nodePort(e.nodes[1], 0), both[1])
	e.silent(e.pods()[1], s.nodePort(e.nodes[2], 0))
	e.silent(e.outside, s.nodePort(e.nodes[2], 0))
}
