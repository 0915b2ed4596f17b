// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package kube_test

import (
	"fmt"
	"net/netip"

	"github.com/waggle-lb/waggle/internal/kubetest"
)

// everyWay opens streams to a Service with a node port and an address of a load balancer
// from a pod and from outside, by all frontends, that this pod answers.
func (s *service) everyWay(p *pod) (out []*stream) {
	e := s.e
	balancer := s.balancer(e.external())
	for _, c := range []client{e.pods()[1], e.outside} {
		for _, at := range []netip.AddrPort{s.vip(), s.nodePort(e.nodes[0], 0), balancer} {
			out = append(out, e.streams(c, at, p)...)
		}
	}
	return out
}

// split parts streams by their network.
func split(streams []*stream) (tcp, udp []*stream) {
	for _, s := range streams {
		if s.network == "tcp" {
			tcp = append(tcp, s)
		} else {
			udp = append(udp, s)
		}
	}
	return tcp, udp
}

// endpointLines are what becomes of connections to an endpoint: TCP goes on, datagrams
// go elsewhere if it does not serve.
func endpointLines() (out []line) {
	removed := kubetest.State(-1)
	for _, c := range []struct {
		name  string
		state kubetest.State
	}{{"is not ready", kubetest.NotReady}, {"terminates", kubetest.Terminating}, {"is removed", removed}} {
		out = append(out, line{name: "an endpoint " + c.name + ": connections go on, datagrams go elsewhere", run: func(e *e2e) {
			old, next := e.pods()[3], e.pods()[4]
			s := e.service("changes", "type: LoadBalancer").backends(old)
			tcp, udp := split(s.everyWay(old))
			s.serve(next)
			list := s.ready(next)
			if c.state != removed {
				list = append(list, e.endpoint(old, c.state))
			}
			s.endpoints(list...)
			for _, stream := range udp {
				stream.moves(next)
			}
			e.reaches(e.pods()[1], s.vip(), next)
			goOn(tcp...)
		}})
	}
	return append(out, line{name: "an endpoint terminates and serves: all goes on, what is new goes elsewhere", run: func(e *e2e) {
		old, next := e.pods()[3], e.pods()[4]
		s := e.service("drains", "type: LoadBalancer").backends(old)
		streams := s.everyWay(old)
		s.serve(next)
		s.endpoints(append(s.ready(next), e.endpoint(old, kubetest.Draining))...)
		e.reaches(e.pods()[1], s.vip(), next)
		e.reaches(e.outside, s.nodePort(e.nodes[0], 0), next)
		goOn(streams...)
	}}, line{name: "the last endpoint is removed: connections go on, datagrams are refused", run: func(e *e2e) {
		s := e.service("empty", "type: LoadBalancer").backends(e.pods()[3])
		tcp, udp := split(s.everyWay(e.pods()[3]))
		s.endpoints()
		e.refuses(e.pods()[1], s.vip())
		for _, stream := range udp {
			stream.isRefused()
		}
		goOn(tcp...)
	}})
}

// frontendLines are what becomes of connections whose frontend goes.
var frontendLines = []line{
	{name: "a Service is deleted: all goes on", run: func(e *e2e) {
		s := e.service("deleted", "type: LoadBalancer").backends(e.pods()[3])
		streams := s.everyWay(e.pods()[3])
		s.delete()
		e.fails(e.pods()[1], s.vip())
		e.fails(e.outside, s.nodePort(e.nodes[0], 0))
		goOn(streams...)
	}},
	{name: "a Service loses its frontends but the cluster IP: all goes on", run: func(e *e2e) {
		external := netip.AddrPortFrom(e.external(), 80)
		s := e.service("loses", fmt.Sprintf("type: LoadBalancer, externalIPs: [%q]", external.Addr())).backends(e.pods()[3])
		port := s.nodePort(e.nodes[0], 0)
		streams := append(s.everyWay(e.pods()[3]), e.streams(e.outside, external, e.pods()[3])...)
		s.apply("")
		e.fails(e.outside, port)
		e.fails(e.outside, external)
		e.reaches(e.pods()[1], s.vip(), e.pods()[3])
		goOn(streams...)
	}},
	{name: "a Service becomes an ExternalName: all goes on", run: func(e *e2e) {
		s := e.service("renamed", "type: LoadBalancer").backends(e.pods()[3])
		streams, at := s.everyWay(e.pods()[3]), s.vip()
		s.apply("type: ExternalName, externalName: example.com")
		e.fails(e.pods()[1], at)
		goOn(streams...)
	}},
}

// existingLines are what becomes of connections when policies change, or waggle is
// restarted.
var existingLines = []line{
	{name: "traffic policies become Local: all goes on", run: func(e *e2e) {
		s := e.service("policies", "type: LoadBalancer").backends(e.pods()[3])
		streams := s.everyWay(e.pods()[3])
		s.apply("type: LoadBalancer, externalTrafficPolicy: Local, internalTrafficPolicy: Local")
		e.silent(e.outside, s.nodePort(e.nodes[0], 0))
		e.silent(e.pods()[1], s.vip())
		goOn(streams...)
	}},
	{name: "traffic policies become Cluster: all goes on", run: func(e *e2e) {
		old, other := e.pods()[0], e.pods()[3]
		s := e.service("policies", "type: LoadBalancer, externalTrafficPolicy: Local, internalTrafficPolicy: Local").backends(old)
		streams := s.everyWay(old)
		s.apply("type: LoadBalancer").backends(old, other)
		e.seenAs(e.nodes[0].masked(e), e.outside, s.nodePort(e.nodes[0], 0), old, other)
		e.reaches(e.pods()[1], s.vip(), old, other)
		goOn(streams...)
	}},
	{name: "affinity comes and goes: all goes on", run: func(e *e2e) {
		pods := e.pods()[2:5]
		s := e.service("affinity", "").backends(pods...)
		var streams []*stream
		for range pods {
			streams = append(streams, e.streams(e.pods()[1], s.vip(), pods...)...)
		}
		s.apply(byClient)
		e.sticks(e.pods()[1], s.vip())
		goOn(streams...)
		s.apply("")
		e.reaches(e.pods()[1], s.vip(), pods...)
		goOn(streams...)
	}},
	{name: "source ranges come: all goes on", run: func(e *e2e) {
		s := e.service("ranges", "type: LoadBalancer").backends(e.pods()[3])
		at := s.balancer(e.external())
		streams := append(e.streams(e.pods()[1], at, e.pods()[3]), e.streams(e.outside, at, e.pods()[3])...)
		s.apply("type: LoadBalancer, loadBalancerSourceRanges: [255.0.0.0/32, 'ffff::/128']")
		e.silent(e.pods()[1], at)
		e.silent(e.outside, at)
		goOn(streams...)
	}},
	{name: "topology hints come: all goes on", run: func(e *e2e) {
		local, other := e.pods()[0], e.pods()[3]
		s := e.service("hints", "type: LoadBalancer").backends(other)
		streams := s.everyWay(other)
		s.serve(local)
		list := s.ready(local, other)
		list[0].ForZones, list[1].ForZones = []string{"a"}, []string{"b"}
		s.endpoints(list...)
		e.reaches(e.pods()[1], s.vip(), local)
		e.reaches(e.outside, s.nodePort(e.nodes[0], 0), local)
		goOn(streams...)
	}},
	{name: "waggle is restarted: all goes on", alone: true, run: func(e *e2e) {
		s := e.service("restart", "type: LoadBalancer").backends(e.pods()[3])
		streams := s.everyWay(e.pods()[3])
		e.nodes[0].kill()
		goOn(streams...)
		e.nodes[0].launch()
		goOn(streams...)
		e.reaches(e.pods()[1], s.vip(), e.pods()[3])
		goOn(streams...)
	}},
	{name: "an endpoint is removed while waggle is away: connections go on, datagrams go elsewhere", alone: true, run: func(e *e2e) {
		old, next := e.pods()[3], e.pods()[4]
		s := e.service("restart", "type: LoadBalancer").backends(old)
		steady := e.service("steady", "type: LoadBalancer").backends(e.pods()[0])
		tcp, udp := split(s.everyWay(old))
		others := steady.everyWay(e.pods()[0])
		e.nodes[0].kill()
		s.backends(next)
		e.nodes[0].launch()
		for _, stream := range udp {
			stream.moves(next)
		}
		goOn(tcp...)
		goOn(others...)
	}},
}
