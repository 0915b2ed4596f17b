// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package kube_test

import (
	"testing"

	"github.com/waggle-lb/waggle/internal/kubetest"
)

// TestTopology has the lines of "Traffic Distribution" and "Topology Hints". The hints
// are those that the endpoint slice controller would give; the first node is in zone a,
// the others are in b. The last lines are not the suite's.
func TestTopology(t *testing.T) { runLines(t, topologyLines()) }

func topologyLines() []line {
	var lines []line
	for _, distribution := range []string{"PreferClose", "PreferSameZone"} {
		spec := "trafficDistribution: " + distribution
		lines = append(lines,
			line{name: "should route traffic to an endpoint in the same zone when using " + distribution, run: func(e *e2e) {
				s := e.hinted(e.service("zones", spec), byZone, e.pods()[0], e.pods()[3])
				e.leads(s, e.pods()[2], e.pods()[0])
				e.leads(s, e.pods()[5], e.pods()[3])
			}},
			line{name: "should route traffic correctly between pods on multiple nodes when using " + distribution, run: func(e *e2e) {
				third := e.nodes[2].hostPod()
				s := e.hinted(e.service("zones", spec), byZone, e.pods()[0], e.pods()[1], e.pods()[3], third)
				e.leads(s, e.pods()[2], e.pods()[0], e.pods()[1])
				e.leads(s, e.pods()[5], e.pods()[3], third)
				s.endpoints(byZone(e, e.pods()[3]), byZone(e, third)) // a has none left
				e.leads(s, e.pods()[2], e.pods()[3], third)
				e.leads(s, e.pods()[5], e.pods()[3], third)
			}},
		)
	}
	lines = append(lines, line{name: "should distribute endpoints evenly", run: func(e *e2e) {
		s := e.service("even", "")
		e.api.Patch(e.t, "Service", e.ns, s.name, `metadata: {annotations: {service.kubernetes.io/topology-mode: Auto}}`)
		e.hinted(s, byZone, e.pods()[0], e.pods()[1], e.pods()[3], e.pods()[4])
		e.leads(s, e.pods()[2], e.pods()[0], e.pods()[1])
		e.leads(s, e.pods()[5], e.pods()[3], e.pods()[4])
	}})
	return append(append(lines, sameNode()...), hintRules()...)
}

// hint makes an endpoint of a pod as the controller would.
type hint func(e *e2e, p *pod) kubetest.Endpoint

func byZone(e *e2e, p *pod) kubetest.Endpoint {
	o := e.endpoint(p, kubetest.Ready)
	o.ForZones = []string{o.Zone}
	return o
}

func byNode(e *e2e, p *pod) kubetest.Endpoint {
	o := byZone(e, p)
	o.ForNodes = []string{o.Node}
	return o
}

// hinted lets pods serve, with hints.
func (e *e2e) hinted(s *service, of hint, pods ...*pod) *service {
	s.serve(pods...)
	var list []kubetest.Endpoint
	for _, p := range pods {
		list = append(list, of(e, p))
	}
	s.endpoints(list...)
	return s
}

// leads waits until a client reaches these pods by the cluster IP, and no others.
func (e *e2e) leads(s *service, c client, pods ...*pod) {
	for _, network := range networks {
		e.only(network, c, s.vip(), pods...)
	}
}

func sameNode() []line {
	const spec = "trafficDistribution: PreferSameNode"
	return []line{
		{name: "should route traffic to an endpoint on the same node or fall back to same zone when using PreferSameNode", run: func(e *e2e) {
			third := e.nodes[2].hostPod()
			s := e.hinted(e.service("nodes", spec), byNode, e.pods()[0], e.pods()[1], third)
			e.leads(s, e.pods()[2], e.pods()[0], e.pods()[1])
			e.leads(s, e.pods()[5], third)
			s.serve(e.pods()[3])
			s.endpoints(byNode(e, e.pods()[3]), byNode(e, third)) // none on the first node, none in its zone
			e.leads(s, e.pods()[2], e.pods()[3], third)
			e.leads(s, e.pods()[5], e.pods()[3])
		}},
		{name: "should route traffic to an endpoint on the same node when using PreferSameNode and fall back when the endpoint becomes unavailable", run: func(e *e2e) {
			here, there := e.pods()[0], e.pods()[3]
			s := e.hinted(e.service("nodes", spec), byNode, here, there)
			e.leads(s, e.pods()[2], here)
			e.leads(s, e.pods()[5], there)
			s.endpoints(byNode(e, there))
			e.leads(s, e.pods()[2], there)
			e.leads(s, e.pods()[5], there)
			s.endpoints(byNode(e, here), byNode(e, there))
			e.leads(s, e.pods()[2], here)
			e.leads(s, e.pods()[5], there)
		}},
	}
}

// hintRules is what the suite leaves to unit tests.
func hintRules() []line {
	return []line{
		{name: "hints count only if each ready endpoint has one", run: (*e2e).someHints},
		{name: "hints do not lead to who drains", run: func(e *e2e) {
			here, there := e.pods()[0], e.pods()[3]
			s := e.service("draining", "")
			s.serve(here, there)
			drains := byZone(e, here)
			drains.State = kubetest.Draining
			s.endpoints(drains, byZone(e, there))
			e.leads(s, e.pods()[2], there)
			also := byZone(e, there)
			also.State = kubetest.Draining
			s.endpoints(drains, also) // all that is left, wherever it is
			e.leads(s, e.pods()[2], here, there)
		}},
		{name: "hints are for external traffic of policy Cluster, and not for policy Local", run: (*e2e).externalHints},
		{name: "the zone of a node may change", alone: true, run: (*e2e).changeZone},
	}
}

// someHints takes the hint of one endpoint away.
func (e *e2e) someHints() {
	here, there, more := e.pods()[0], e.pods()[3], e.pods()[4]
	s := e.service("some", "")
	s.serve(here, there, more)
	client := e.pods()[2]
	for _, state := range []kubetest.State{kubetest.NotReady, kubetest.Draining, kubetest.Terminating} {
		s.endpoints(byZone(e, here), byZone(e, there), e.endpoint(more, kubetest.Ready))
		e.leads(s, client, here, there, more)
		s.endpoints(byZone(e, here), byZone(e, there), e.endpoint(more, state))
		e.leads(s, client, here)
	}
	// those for nodes are not for all: those for zones are
	s.endpoints(byNode(e, here), byZone(e, there), byZone(e, e.nodes[0].pods[1]))
	s.serve(e.nodes[0].pods[1])
	e.leads(s, client, here, e.nodes[0].pods[1])
}

// externalHints is about node ports.
func (e *e2e) externalHints() {
	pods := []*pod{e.pods()[0], e.pods()[1], e.pods()[3]}
	s := e.hinted(e.service("external", "type: NodePort"), byZone, pods...)
	for _, network := range networks {
		e.only(network, e.outside, s.nodePortBy(network, e.nodes[0]), pods[:2]...)
		e.only(network, e.outside, s.nodePortBy(network, e.nodes[2]), pods[2])
	}
	elsewhere := func(p *pod, zone string) kubetest.Endpoint {
		o := e.endpoint(p, kubetest.Ready)
		o.ForZones = []string{zone}
		return o
	}
	s.endpoints(elsewhere(pods[0], "a"), elsewhere(pods[1], "b"), elsewhere(pods[2], "b"))
	want := func(led ...*pod) {
		for _, network := range networks {
			e.only(network, e.outside, s.nodePortBy(network, e.nodes[0]), led...)
			e.only(network, e.pods()[2], s.vip(), led...)
		}
	}
	want(pods[0])
	s.apply("type: NodePort, externalTrafficPolicy: Local, internalTrafficPolicy: Local")
	want(pods[:2]...) // whoever goes on with hints leads all to the first
}

// changeZone moves a node from zone to zone.
func (e *e2e) changeZone() {
	s := e.hinted(e.service("zones", ""), byZone, e.pods()[0], e.nodes[2].hostPod())
	client := e.pods()[5]
	n := client.node
	move := func(zone string) {
		o := n.object()
		o.Zone = zone
		e.api.SetNode(e.t, o)
	}
	defer move(n.zone())
	e.leads(s, client, e.nodes[2].hostPod())
	move("a")
	e.leads(s, client, e.pods()[0])
	move("") // none
	e.leads(s, client, e.pods()[0], e.nodes[2].hostPod())
	move("a")
	e.leads(s, client, e.pods()[0])
	move("c") // nobody's
	e.leads(s, client, e.pods()[0], e.nodes[2].hostPod())
	move("b")
	e.leads(s, client, e.nodes[2].hostPod())
}
