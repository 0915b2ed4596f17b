// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package kube_test

import (
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/waggle-lb/waggle/internal/kubetest"
)

// dualStack are Services of all combinations of families.
func dualStack() (out []line) {
	out = append(out, line{
		name: "should create a single stack service with cluster ip from primary service range", families: []string{"ipv4"},
		run: func(e *e2e) {
			s := e.newService("primary", "", e.port())
			s.apply("type: NodePort")
			hasOnly(e, s, "IPv4")
		},
	})
	for _, families := range []string{"IPv4", "IPv6", "IPv4, IPv6", "IPv6, IPv4"} {
		list := strings.Split(families, ", ")
		l := line{name: "should create service with " + strings.ReplaceAll(strings.ToLower(families), ", ip", ",") + " cluster ip"}
		if len(list) == 1 {
			l.families = []string{strings.ToLower(families)}
		}
		l.run = func(e *e2e) {
			s := e.newService("combined", families, e.port())
			policy := "SingleStack"
			if len(list) == 2 {
				policy = "RequireDualStack"
			}
			s.apply("type: NodePort, ipFamilyPolicy: " + policy)
			hasOnly(e, s, list...)
		}
		out = append(out, l)
	}
	return append(out, line{name: "should take cluster IPs of a second family away and give them again", run: func(e *e2e) {
		s := e.secondary("changed", "type: NodePort").backends(e.pods()[0])
		both, first := s.families, strings.Split(s.families, ", ")[0]
		old := s.vip()
		e.reaches(e.pods()[3], old, e.pods()[0])
		s.families = first
		s.apply("type: NodePort, ipFamilyPolicy: SingleStack")
		e.fails(e.pods()[3], old)
		for _, network := range networks {
			e.unreachable(network, e.pods()[3], s.nodePortBy(network, e.nodes[1]))
		}
		s.families = both
		s.apply("type: NodePort, ipFamilyPolicy: RequireDualStack")
		e.reaches(e.pods()[3], s.vip(), e.pods()[0])
	}})
}

// hasOnly checks which families the API server made a Service of, that it serves the
// line's, and, if that is the only one, that it serves no other.
func hasOnly(e *e2e, s *service, families ...string) {
	if got := s.object.Texts("spec", "ipFamilies"); !slices.Equal(got, families) {
		e.fail("families %v, want %v", got, families)
	}
	pod := e.pods()[0]
	s.serve(pod)
	var all []kubetest.Endpoint
	for _, v6 := range []bool{false, true} {
		all = append(all, kubetest.Endpoint{Addr: pod.addr(v6), Node: pod.node.name})
	}
	s.endpoints(all...)
	e.reaches(e.pods()[3], s.vip(), pod)
	for _, network := range networks {
		e.only(network, e.outside, s.nodePortBy(network, e.nodes[1]), pod)
		if len(families) == 1 {
			at := s.nodePortBy(network, e.nodes[1])
			other := netip.AddrPortFrom(e.nodes[1].addr(!e.v6), at.Port())
			if r, err := once(e.outside, network, other); err == nil {
				e.fail("%s is no node port of the Service, and %s answers", other, r.pod)
			}
		}
	}
}

// sliceYAML is an EndpointSlice that a user has made: its ports are "name: number".
func (e *e2e) sliceYAML(name, service string, ports map[string]uint16, pods ...*pod) string {
	var list, endpoints []string
	for port, number := range ports {
		protocol := "TCP"
		if strings.HasPrefix(port, "udp") {
			protocol = "UDP"
		}
		list = append(list, fmt.Sprintf("{name: %s, protocol: %s, port: %d}", port, protocol, number))
	}
	for _, p := range pods {
		endpoints = append(endpoints, fmt.Sprintf("{addresses: [%q], nodeName: %s}", p.addr(e.v6), p.node.name))
	}
	return fmt.Sprintf(`
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: %s, labels: {kubernetes.io/service-name: %s}}
addressType: %s
ports: [%s]
endpoints: [%s]`, name, service, e.family(), strings.Join(list, ", "), strings.Join(endpoints, ", "))
}

func sliceLines() []line {
	return []line{
		{name: "should support a Service with multiple ports specified in multiple EndpointSlices", run: func(e *e2e) {
			s := e.service("ports", "")
			other := e.port()
			e.serve(e.pods()[0], s.target)
			e.serve(e.pods()[3], other)
			tcp, udp := e.sliceYAML("tcp", "ports", map[string]uint16{"tcp": s.target}, e.pods()[0]), e.sliceYAML("udp", "ports", map[string]uint16{"udp": other}, e.pods()[3])
			e.object(tcp)
			e.object(udp)
			client := e.pods()[2]
			e.only("tcp", client, s.vip(), e.pods()[0])
			e.only("udp", client, s.vip(), e.pods()[3])
			e.api.Delete(e.t, "EndpointSlice", e.ns, "udp")
			e.refusedBy("udp", client, s.vip())
			e.only("tcp", client, s.vip(), e.pods()[0])
			e.object(udp)
			e.only("udp", client, s.vip(), e.pods()[3])
		}},
		{name: "should support a Service with multiple endpoint IPs specified in multiple EndpointSlices", run: func(e *e2e) {
			s := e.service("addresses", "")
			other := e.port()
			e.serve(e.pods()[0], s.target)
			e.serve(e.pods()[3], other)
			e.object(e.sliceYAML("one", "addresses", map[string]uint16{"tcp": s.target, "udp": s.target}, e.pods()[0]))
			e.object(e.sliceYAML("two", "addresses", map[string]uint16{"tcp": other, "udp": other}, e.pods()[3]))
			for _, network := range networks {
				e.only(network, e.pods()[2], s.vip(), e.pods()[0], e.pods()[3])
			}
			e.api.Delete(e.t, "EndpointSlice", e.ns, "one")
			for _, network := range networks {
				e.only(network, e.pods()[2], s.vip(), e.pods()[3])
			}
		}},
	}
}

// rangeOf is a network for cluster IPs that the cluster was not made with.
func rangeOf(v6 bool) netip.Prefix {
	if v6 {
		return netip.MustParsePrefix("fd00:10:97::/112")
	}
	return netip.MustParsePrefix("10.97.0.0/24")
}

// serviceRange makes a ServiceCIDR, and plays the controller that finds it ready.
func (e *e2e) serviceRange() {
	name := "more-" + strings.ToLower(e.family())
	e.api.Apply(e.t, "", fmt.Sprintf(`
apiVersion: networking.k8s.io/v1
kind: ServiceCIDR
metadata: {name: %s}
spec: {cidrs: [%q]}`, name, rangeOf(e.v6)))
	e.api.UpdateStatus(e.t, "ServiceCIDR", "", name,
		`conditions: [{type: Ready, status: "True", reason: "", message: "", lastTransitionTime: "2026-01-01T00:00:00Z"}]`)
}

// tryApply applies an object of the line's namespace that the API server may refuse.
func (e *e2e) tryApply(resource, name, yaml string) error {
	path := fmt.Sprintf("/api/v1/namespaces/%s/%s/%s?fieldManager=kubetest&force=true", e.ns, resource, name)
	_, err := e.api.Request(e.t.Context(), http.MethodPatch, path, "application/apply-patch+yaml", []byte(yaml))
	return err
}

func serviceRanges() []line {
	return []line{
		{name: "should create Services and serve on different Service CIDRs", alone: true, run: func(e *e2e) {
			// an address that is to no Service leaves the node until its network
			// is one of Services
			free := rangeOf(e.v6).Addr().Next()
			e.try(e.outside.AddAddr("lo", netip.PrefixFrom(free, free.BitLen())))
			bystander := &pod{host: *e.outside}
			port := e.port()
			stop, err := bystander.Serve(netip.AddrPortFrom(free, port), greeting("bystander"))
			e.try(err)
			e.stops = append(e.stops, stop)
			client := e.pods()[3]
			e.reaches(client, netip.AddrPortFrom(free, port))
			e.serviceRange()
			e.silent(client, netip.AddrPortFrom(free, port))

			s := e.newService("served", e.family(), e.port())
			e.eventually("the API server gives addresses of the range", func() error {
				ip := free.Next().Next()
				return e.tryApply("services", s.name, s.yaml(fmt.Sprintf("type: NodePort, clusterIP: %q", ip)))
			})
			s.refresh().backends(e.pods()[0], e.pods()[4])
			if !rangeOf(e.v6).Contains(s.vip().Addr()) {
				e.fail("the cluster IP is %s", s.vip())
			}
			for _, network := range networks {
				e.only(network, client, s.vip(), e.pods()[0], e.pods()[4])
				e.only(network, client, s.nodePortBy(network, e.nodes[2]), e.pods()[0], e.pods()[4])
			}
		}},
	}
}
