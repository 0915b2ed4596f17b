// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package kube_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
)

// TestNetworking has the lines of "Networking" that go through Services, those of
// "[Feature:IPv6DualStack]", "EndpointSlice" and "Service CIDRs". Left out are
//   - sctp: kernels of the machines that run this have no sctp; the dataplane's own
//     tests have packets of it;
//   - "should check kube-proxy urls", which is in TestOutages;
//   - "should recreate its iptables rules if they are deleted": it has none;
//   - what needs no Service: Internet, DNS, static URLs, host ports, addresses of nodes
//     and pods;
//   - what is a controller's: slices for pods and selectors, mirroring.
func TestNetworking(t *testing.T) { runLines(t, networkingLines()) }

func networkingLines() []line {
	return slices.Concat(
		granular("", (*e2e).service),
		nodePortChecks(),
		granular("Services Secondary IP Family ", (*e2e).secondary),
		dualStack(), sliceLines(), serviceRanges(),
	)
}

// maker makes a Service as e2e.service does.
type maker func(e *e2e, name, spec string) *service

// secondary makes a Service whose cluster IP of the line's family is the second one.
func (e *e2e) secondary(name, spec string) *service {
	families := "IPv6, IPv4"
	if e.v6 {
		families = "IPv4, IPv6"
	}
	return e.dual(name, families, spec)
}

// dual makes a Service with cluster IPs of families.
func (e *e2e) dual(name, families, spec string) *service {
	if spec != "" {
		spec += ", "
	}
	s := e.newService(name, families, e.port())
	s.apply(spec + "ipFamilyPolicy: PreferDualStack")
	return s
}

// granular are the granular checks of Services.
func granular(prefix string, serve maker) (out []line) {
	add := func(name string, run func(*e2e)) { out = append(out, line{name: prefix + name, run: run}) }
	for _, network := range networks {
		word := words[network]
		add("should function for pod-Service: "+word, func(e *e2e) {
			fromAll(e, network, serve, e.pods()[2])
		})
		add("should function for endpoint-Service: "+word, func(e *e2e) {
			fromAll(e, network, serve, e.pods()[0])
		})
		add("should function for node-Service: "+word, func(e *e2e) {
			s := serve(e, "node-service", "type: NodePort").backends(e.pods()[0], e.pods()[3])
			for _, n := range e.nodes[1:] {
				e.only(network, e.nodes[0], s.nodePortBy(network, n), e.pods()[0], e.pods()[3])
			}
		})
		add("should function for node-Service: "+word+" (from the node)", func(e *e2e) {
			s := serve(e, "node-service", "type: NodePort").backends(e.pods()[0], e.pods()[3])
			for _, n := range e.nodes {
				e.only(network, n, s.vip(), e.pods()[0], e.pods()[3])
				e.only(network, n, s.nodePortBy(network, n), e.pods()[0], e.pods()[3])
			}
		})
		add("should update endpoints: "+word, func(e *e2e) { updateEndpoints(e, network, serve) })
		add("should function for client IP based session affinity: "+word+" [LinuxOnly]", func(e *e2e) {
			s := serve(e, "affinity", "type: NodePort, sessionAffinity: ClientIP").backends(e.pods()[0], e.pods()[1], e.pods()[3], e.pods()[4])
			for _, client := range []*pod{e.pods()[2], e.pods()[5]} {
				e.sticksBy(network, client, s.vip())
				e.sticksBy(network, client, s.nodePortBy(network, e.nodes[2]))
			}
		})
	}
	out = append(out, hostNetwork(prefix, serve)...)
	return append(out, largeRequests(prefix+"should be able to handle large requests", 2, func(e *e2e) *service {
		return serve(e, "large", "type: NodePort").backends(e.pods()[0], e.pods()[3])
	})...)
}

// hostNetwork are the checks whose endpoints are processes of nodes.
func hostNetwork(prefix string, serve maker) []line {
	return append([]line{
		{name: prefix + "should function for service endpoints using hostNetwork", run: func(e *e2e) {
			hosts := []*pod{e.nodes[0].hostPod(), e.nodes[1].hostPod(), e.nodes[2].hostPod()}
			s := serve(e, "host-network", "type: NodePort").backends(hosts...)
			for _, network := range networks {
				e.only(network, e.pods()[0], s.vip(), hosts...)
				for _, n := range e.nodes {
					e.only(network, e.pods()[0], s.nodePortBy(network, n), hosts...)
				}
			}
		}},
		{name: prefix + "should function for service endpoints using hostNetwork (from the node)", run: func(e *e2e) {
			hosts := []*pod{e.nodes[0].hostPod(), e.nodes[1].hostPod()}
			s := serve(e, "host-network", "type: NodePort").backends(hosts...)
			for _, network := range networks {
				e.only(network, e.nodes[0], s.vip(), hosts...)
				e.only(network, e.nodes[0], s.nodePortBy(network, e.nodes[0]), hosts...)
			}
		}},
	}, largeRequests(prefix+"should be able to handle large requests to endpoints using hostNetwork", 3, func(e *e2e) *service {
		return serve(e, "large", "type: NodePort").backends(e.nodes[0].hostPod(), e.nodes[1].hostPod(), e.nodes[2].hostPod())
	})...)
}

// fromAll is a pod that connects to a Service's cluster IP and to all of its node ports.
func fromAll(e *e2e, network string, serve maker, client *pod) {
	pods := []*pod{e.pods()[0], e.pods()[3]}
	s := serve(e, "granular", "type: NodePort").backends(pods...)
	e.only(network, client, s.vip(), pods...)
	for _, n := range e.nodes {
		e.only(network, client, s.nodePortBy(network, n), pods...)
	}
}

func updateEndpoints(e *e2e, network string, serve maker) {
	s := serve(e, "update", "")
	stop := e.serve(e.pods()[0], s.target)
	s.serve(e.pods()[3])
	s.endpoints(s.ready(e.pods()[0], e.pods()[3])...)
	client := e.pods()[2]
	e.only(network, client, s.vip(), e.pods()[0], e.pods()[3])
	stop()
	s.backends(e.pods()[4])
	e.only(network, client, s.vip(), e.pods()[4])
	s.serve(e.pods()[0])
	s.endpoints(s.ready(e.pods()[0], e.pods()[3], e.pods()[4])...)
	e.only(network, client, s.vip(), e.pods()[0], e.pods()[3], e.pods()[4])
}

// largeRequests are requests of what the suite sends, and of what needs many packets, by
// a pod to a cluster IP, and by the outside client to a node port. made makes the Service.
func largeRequests(name string, endpoints int, made func(*e2e) *service) (out []line) {
	for _, network := range networks {
		name := name + ": " + words[network]
		out = append(out,
			line{name: name, run: func(e *e2e) { e.large(network, endpoints, e.pods()[2], made(e).vip()) }},
			line{name: name + " (from outside)", run: func(e *e2e) {
				e.large(network, endpoints, e.outside, made(e).nodePortBy(network, e.nodes[0]))
			}},
		)
	}
	return out
}

func (e *e2e) large(network string, endpoints int, c client, at netip.AddrPort) {
	for _, size := range []int{2000, 30000} {
		e.eventually(fmt.Sprintf("%s sends %d bytes by %s to %s", c.addr(e.v6), size, network, at), func() error {
			for range endpoints { // picks go round
				if _, err := carries(network, c, at, size); err != nil {
					return err
				}
			}
			return nil
		})
	}
}

// nodePortChecks are the granular checks that are not made of second families.
func nodePortChecks() (out []line) {
	for _, network := range networks {
		out = append(out, line{name: "should update nodePort: " + words[network], run: func(e *e2e) {
			s := e.service("node-port", "type: NodePort").backends(e.pods()[0], e.pods()[3])
			at := s.nodePortBy(network, e.nodes[2])
			for _, c := range []client{e.pods()[2], e.outside, e.nodes[0]} {
				e.only(network, c, at, e.pods()[0], e.pods()[3])
			}
			e.api.Delete(e.t, "Service", e.ns, s.name)
			for _, c := range []client{e.pods()[2], e.outside, e.nodes[0]} {
				e.refusedBy(network, c, at)
			}
		}})
	}
	out = append(out, largeRequests("should be able to handle large requests where a path is narrow", 1, func(e *e2e) *service {
		e.try(e.nodes[1].LimitRoute(podBridge, e.pods()[5].addr(e.v6), 1300))
		return e.service("narrow", "type: NodePort").backends(e.pods()[5])
	})...)
	return append(out,
		line{name: "should support basic nodePort: udp functionality", run: func(e *e2e) {
			s := e.service("basic", "type: NodePort").backends(e.pods()[0], e.pods()[3])
			for _, n := range e.nodes {
				e.only("udp", e.outside, s.nodePortBy("udp", n), e.pods()[0], e.pods()[3])
			}
		}},
		line{name: "should function for multiple endpoint-Services with same selector", run: func(e *e2e) {
			pods := []*pod{e.pods()[0], e.pods()[3]}
			first := e.service("first", "type: NodePort").backends(pods...)
			second := e.newService("second", first.families, first.target)
			second.apply("type: NodePort")
			second.endpoints(second.ready(pods...)...)
			n := e.nodes[1]
			for _, s := range []*service{first, second} {
				e.only("tcp", pods[0], s.vip(), pods...)
				e.only("tcp", pods[0], s.nodePortBy("tcp", n), pods...)
			}
			e.api.Delete(e.t, "Service", e.ns, first.name)
			e.fails(pods[0], first.nodePortBy("tcp", n))
			e.fails(pods[0], first.vip())
			e.only("tcp", pods[0], second.vip(), pods...)
			e.only("tcp", pods[0], second.nodePortBy("tcp", n), pods...)
		}},
	)
}
