// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package kube_test

import (
	"net/netip"

	"github.com/waggle-lb/waggle/internal/kubetest"
)

const (
	internalLocal = "internalTrafficPolicy: Local"
	externalLocal = "externalTrafficPolicy: Local"
)

// published is what a terminating pod, not ready, is if its Service publishes those.
const published = "ready: true, serving: false, terminating: true"

// unreadyLines are about endpoints that are not ready, or terminate.
var unreadyLines = []line{
	{name: "should create endpoints for unready pods", run: func(e *e2e) {
		client, p := e.pods()[0], e.pods()[3]
		s := e.service("tolerant", "publishNotReadyAddresses: true")
		s.serve(p)
		for _, ready := range []string{"ready: true, serving: false, terminating: false", published} {
			e.refuses(client, s.vip())
			s.slice("slice", slice{ports: s.ports, pods: []*pod{p}, conditions: ready})
			e.reaches(client, s.vip(), p)
			s.slice("slice", slice{ports: s.ports, pods: []*pod{p}, conditions: "ready: false, serving: false, terminating: true"})
		}
		e.refuses(client, s.vip())
	}},
	{name: "should be able to connect to terminating and unready endpoints if PublishNotReadyAddresses is true", run: func(e *e2e) {
		p := e.pods()[0]
		s := e.service("published", "type: NodePort, publishNotReadyAddresses: true").backends(p)
		answers := func() {
			e.reaches(e.pods()[4], s.vip(), p)
			s.atNodes(p)
		}
		answers()
		s.endpoints()
		e.fails(e.pods()[4], s.vip())
		for _, n := range e.nodes {
			e.fails(e.pods()[4], s.nodePort(n, 0))
		}
		s.slice("slice", slice{ports: s.ports, pods: []*pod{p}, conditions: published})
		answers()
	}},
	{name: "should not be able to connect to terminating and unready endpoints if PublishNotReadyAddresses is false", run: func(e *e2e) {
		p := e.pods()[0]
		s := e.service("hidden", "type: NodePort").backends(p)
		e.reaches(e.pods()[4], s.vip(), p)
		s.atNodes(p)
		s.endpoints(e.endpoint(p, kubetest.Terminating))
		e.fails(e.pods()[4], s.vip())
		for _, n := range e.nodes {
			e.fails(e.pods()[4], s.nodePort(n, 0))
		}
	}},
	{name: "should fail health check node port if there are only terminating endpoints", run: func(e *e2e) {
		p := e.pods()[0]
		s := e.service("terminates", localBalanced).backends(p).refresh()
		e.checked(s, e.nodes[0], 1)
		e.checked(s, e.nodes[1], 0)
		s.endpoints(e.endpoint(p, kubetest.Draining))
		e.checked(s, e.nodes[0], 0)
		e.reaches(e.outside, s.nodePort(e.nodes[0], 0), p)
	}},
	{name: "should fallback to terminating endpoints when there are no ready endpoints with internalTrafficPolicy=Cluster", run: func(e *e2e) {
		s := e.service("fallback", "").fallsBack(e.pods()[0])
		e.reaches(e.pods()[1], s.vip(), e.pods()[0])
		e.reaches(e.pods()[4], s.vip(), e.pods()[0])
	}},
	{name: "should fallback to local terminating endpoints when there are no ready endpoints with internalTrafficPolicy=Local", run: func(e *e2e) {
		s := e.service("fallback", internalLocal).fallsBack(e.pods()[0])
		e.reaches(e.pods()[1], s.vip(), e.pods()[0])
		e.fails(e.pods()[4], s.vip())
	}},
	{name: "should fallback to terminating endpoints when there are no ready endpoints with externallTrafficPolicy=Cluster", run: func(e *e2e) {
		s := e.service("fallback", "type: NodePort").fallsBack(e.pods()[0])
		s.atNodes(e.pods()[0])
	}},
	{name: "should fallback to local terminating endpoints when there are no ready endpoints with externalTrafficPolicy=Local", run: func(e *e2e) {
		s := e.service("fallback", "type: NodePort, "+externalLocal).fallsBack(e.pods()[0])
		e.reaches(e.pods()[1], s.nodePort(e.nodes[0], 0), e.pods()[0])
		e.reaches(e.pods()[4], s.nodePort(e.nodes[0], 0), e.pods()[0])
		e.fails(e.pods()[1], s.nodePort(e.nodes[1], 0))
	}},
}

// fallsBack lets a pod terminate when no other is ready any more: neither one of its own
// node nor one of the second.
func (s *service) fallsBack(p *pod) *service {
	pods := s.e.pods()
	s.backends(p, pods[2], pods[3])
	s.e.reaches(pods[1], s.vip())
	s.e.reaches(pods[4], s.vip())
	s.endpoints(s.e.endpoint(p, kubetest.Draining), s.e.endpoint(pods[2], kubetest.NotReady), s.e.endpoint(pods[3], kubetest.NotReady))
	return s
}

// policyLines are about traffic policies.
var policyLines = []line{
	{name: "should respect internalTrafficPolicy=Local Pod to Pod", run: func(e *e2e) {
		s := e.service("local", internalLocal).backends(e.pods()[0])
		e.reaches(e.pods()[1], s.vip(), e.pods()[0])
		e.fails(e.pods()[3], s.vip())
	}},
	{name: "should respect internalTrafficPolicy=Local Pod (hostNetwork: true) to Pod", run: func(e *e2e) {
		s := e.service("local", internalLocal).backends(e.pods()[0])
		e.reaches(e.nodes[0], s.vip(), e.pods()[0])
		e.fails(e.nodes[1], s.vip())
	}},
	{name: "should respect internalTrafficPolicy=Local Pod and Node, to Pod (hostNetwork: true)", run: func(e *e2e) {
		p := e.nodes[0].hostPod()
		s := e.service("local", internalLocal).backends(p)
		e.reaches(e.pods()[1], s.vip(), p)
		e.fails(e.pods()[3], s.vip())
	}},
	{name: "should respect internalTrafficPolicy=Local Pod and Node, to Pod (hostNetwork: true) (from the node)", run: func(e *e2e) {
		p := e.nodes[0].hostPod()
		s := e.service("local", internalLocal).backends(p)
		e.reaches(e.nodes[0], s.vip(), p)
		e.fails(e.nodes[1], s.vip())
	}},
	{name: "should support externalTrafficPolicy=Local for type=NodePort", run: func(e *e2e) {
		s := e.service("local", "type: NodePort, "+externalLocal).backends(e.pods()[0])
		for _, client := range []*host{e.nodes[1].host, e.nodes[2].host, e.outside} {
			e.seenAs(client.itself(e), client, s.nodePort(e.nodes[0], 0), e.pods()[0])
		}
	}},
	{name: "should implement NodePort and HealthCheckNodePort correctly when ExternalTrafficPolicy changes", run: func(e *e2e) {
		e.policyChanges(e.pods()[4])
	}},
	{name: "should implement NodePort and HealthCheckNodePort correctly when ExternalTrafficPolicy changes (from the node)", run: func(e *e2e) {
		e.policyChanges(e.nodes[1])
	}},
}

// policyChanges goes from Local to Cluster and back. The endpoint is at the first node,
// the client at the second, which leads its own anywhere.
func (e *e2e) policyChanges(c client) {
	p := e.pods()[0]
	const spec = "type: LoadBalancer, externalTrafficPolicy: "
	s := e.service("changes", spec+"Local").backends(p)
	local := func() {
		s.refresh()
		e.checked(s, e.nodes[0], 1)
		e.checked(s, e.nodes[1], 0)
		e.checked(s, e.nodes[2], 0)
		e.reaches(c, s.nodePort(e.nodes[0], 0), p)
		e.reaches(c, s.nodePort(e.nodes[1], 0), p)
		e.fails(c, s.nodePort(e.nodes[2], 0))
		e.reaches(e.outside, s.nodePort(e.nodes[0], 0), p)
		e.silent(e.outside, s.nodePort(e.nodes[1], 0))
		e.silent(e.outside, s.nodePort(e.nodes[2], 0))
	}
	local()
	asked := s.healthPort(e.nodes[0]).Port()
	s.apply(spec + "Cluster")
	for _, n := range e.nodes {
		e.unchecked(netip.AddrPortFrom(n.addr(e.v6), asked))
	}
	for _, n := range e.nodes {
		e.reaches(c, s.nodePort(n, 0), p)
		e.reaches(e.outside, s.nodePort(n, 0), p)
	}
	s.apply(spec + "Local")
	local()
}
