// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package kube_test

import (
	"fmt"
	"net/netip"
)

// typeLines are about a Service's type, and node ports.
var typeLines = []line{
	{name: "should be able to create a functioning NodePort service", run: func(e *e2e) {
		pods := e.pods()[2:4]
		s := e.service("nodeport", "type: NodePort").backends(pods...)
		e.reaches(e.pods()[0], s.vip(), pods...)
		s.atNodes(pods...)
	}},
	{name: "should be able to create a functioning NodePort service (from the node)", run: func(e *e2e) {
		pods := e.pods()[2:4]
		s := e.service("nodeport", "type: NodePort").backends(pods...)
		for _, client := range e.nodes {
			e.reaches(client, s.vip(), pods...)
			for _, n := range e.nodes {
				e.reaches(client, s.nodePort(n, 0), pods...)
			}
		}
	}},
	{name: "should be possible to connect to a service via ExternalIP when the external IP is not assigned to a node", run: func(e *e2e) {
		at := netip.AddrPortFrom(e.external(), 80)
		e.service("external", fmt.Sprintf("externalIPs: [%q]", at.Addr())).backends(e.pods()[2:4]...)
		e.reaches(e.pods()[0], at, e.pods()[2:4]...)
		e.reaches(e.pods()[4], at, e.pods()[2:4]...)
	}},
	{name: "should be able to update service type to NodePort listening on same port number but different protocols", run: func(e *e2e) {
		s := e.service("protocols", "")
		both := s.ports
		s.ports = both[:1]
		s.apply("type: NodePort").backends(e.pods()[3])
		at := s.nodePort(e.nodes[0], 0)
		e.reachesBy("tcp", e.outside, at, e.pods()[3])
		e.refusesBy(networks[1:], e.outside, at)
		for i := range both {
			both[i].nodePort = at.Port()
		}
		s.ports = both
		s.apply("type: NodePort").endpoints(s.ready(e.pods()[3])...)
		s.atNodes(e.pods()[3])
	}},
	{name: "should be able to change the type from ExternalName to ClusterIP", run: func(e *e2e) {
		s := e.service("changed", "type: ExternalName, externalName: example.com")
		s.apply("type: ClusterIP").backends(e.pods()[2:4]...)
		e.reaches(e.pods()[0], s.vip(), e.pods()[2:4]...)
	}},
	{name: "should be able to change the type from ExternalName to NodePort", run: func(e *e2e) {
		s := e.service("changed", "type: ExternalName, externalName: example.com")
		s.apply("type: NodePort").backends(e.pods()[2:4]...)
		e.reaches(e.pods()[0], s.vip(), e.pods()[2:4]...)
		s.atNodes(e.pods()[2:4]...)
	}},
	{name: "should be able to change the type from ClusterIP to ExternalName", run: func(e *e2e) {
		s := e.service("changed", "").backends(e.pods()[2:4]...)
		at := s.vip()
		e.reaches(e.pods()[0], at, e.pods()[2:4]...)
		s.apply("type: ExternalName, externalName: example.com")
		e.fails(e.pods()[0], at)
	}},
	{name: "should be able to change the type from NodePort to ExternalName", run: func(e *e2e) {
		s := e.service("changed", "type: NodePort").backends(e.pods()[2:4]...)
		vip, port := s.vip(), s.nodePort(e.nodes[0], 0)
		e.reaches(e.pods()[0], vip, e.pods()[2:4]...)
		e.reaches(e.outside, port, e.pods()[2:4]...)
		s.apply("type: ExternalName, externalName: example.com")
		e.fails(e.pods()[0], vip)
		e.fails(e.outside, port)
	}},
	{name: "should prevent NodePort collisions", run: func(e *e2e) {
		s := e.service("first", "type: NodePort").backends(e.pods()[3])
		at := s.nodePort(e.nodes[0], 0)
		e.reaches(e.outside, at, e.pods()[3])
		collision := fmt.Sprintf("type: NodePort, ports: [{port: 80, nodePort: %d}]", at.Port())
		e.invalid(collision)
		e.reaches(e.outside, at, e.pods()[3])
	}},
	{name: "should check NodePort out-of-range", run: func(e *e2e) {
		e.invalid("type: NodePort, ports: [{port: 80, nodePort: 22}]")
		e.invalid("type: NodePort, ports: [{port: 80, nodePort: 65535}]")
		s := e.service("valid", "type: NodePort").backends(e.pods()[3])
		e.reaches(e.outside, s.nodePort(e.nodes[0], 0), e.pods()[3])
	}},
	{name: "should release NodePorts on delete", run: func(e *e2e) {
		first := e.service("first", "type: NodePort").backends(e.pods()[3])
		at := first.nodePort(e.nodes[0], 0)
		e.reaches(e.outside, at, e.pods()[3])
		first.delete()
		e.fails(e.outside, at)
		second := e.service("second", "")
		for i := range second.ports {
			second.ports[i].nodePort = at.Port()
		}
		second.apply("type: NodePort").backends(e.pods()[2])
		e.reaches(e.outside, at, e.pods()[2])
	}},
}
