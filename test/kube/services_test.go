// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package kube_test

import (
	"fmt"
	"net/http"
	"slices"
	"testing"

	"github.com/waggle-lb/waggle/internal/kubetest"
)

// TestServices is the list "Services" of the suite. A line whose client is a process on
// the node itself stands apart, as "... (from the node)".
//
// Not here: "should fail health check node port if there are only terminating endpoints"
// and what "should implement NodePort and HealthCheckNodePort correctly ..." says of
// health check ports: these are not served yet. "should connect to the ports exposed by
// restartable init containers" and "should connect to the named ports exposed by
// restartable init containers": which ports pods have is between the kubelet and the
// endpointslice controller, and to a proxy they are ports like any. Services are reached
// by address, never by name: there is no DNS.
func TestServices(t *testing.T) { runLines(t, serviceLines()) }

func serviceLines() []line {
	return slices.Concat(basicLines, objectLines, portLines, typeLines, affinityLines, unreadyLines, policyLines, restartLines)
}

var basicLines = []line{
	{name: "should serve a basic endpoint from pods", run: func(e *e2e) { e.basicEndpoint(e.pods()[2]) }},
	{name: "should serve a basic endpoint from pods (from the node)", run: func(e *e2e) { e.basicEndpoint(e.nodes[0]) }},
	{name: "should serve multiport endpoints from pods", run: func(e *e2e) {
		one, two := servicePort{"one", "TCP", 80, e.port(), 0}, servicePort{"two", "TCP", 81, e.port(), 0}
		s := e.serviceAt("multiport", "", one, two)
		first, second := e.pods()[0], e.pods()[3]
		e.serve(first, one.target)
		e.serve(second, two.target)
		s.slice("first", slice{ports: []servicePort{one}, pods: []*pod{first}})
		e.reachesBy("tcp", e.pods()[1], s.vipAt(0), first)
		e.refusesBy(networks[:1], e.pods()[1], s.vipAt(1))
		s.slice("second", slice{ports: []servicePort{two}, pods: []*pod{second}})
		e.reachesBy("tcp", e.pods()[1], s.vipAt(0), first)
		e.reachesBy("tcp", e.pods()[1], s.vipAt(1), second)
	}},
	{name: "should preserve source pod IP for traffic thru service cluster IP", run: func(e *e2e) {
		s := e.service("source", "").backends(e.pods()[0])
		for _, client := range []*pod{e.pods()[1], e.pods()[3]} {
			e.seenAs(client.itself(e), client, s.vip(), e.pods()[0])
		}
	}},
	{name: "should allow pods to hairpin back to themselves through services", run: func(e *e2e) {
		s := e.service("hairpin", "").backends(e.pods()[0])
		e.reaches(e.pods()[0], s.vip(), e.pods()[0])
	}},
	{name: "should be able to up and down services", run: func(e *e2e) {
		client, pods := e.pods()[5], e.pods()[:3]
		first, second := e.service("first", "").backends(pods...), e.service("second", "").backends(pods...)
		e.reaches(client, first.vip(), pods...)
		e.reaches(client, second.vip(), pods...)
		first.delete()
		e.fails(client, first.vip())
		e.reaches(client, second.vip(), pods...)
		third := e.service("third", "").backends(pods...)
		e.reaches(client, third.vip(), pods...)
		e.reaches(client, second.vip(), pods...)
		if third.vip() == second.vip() {
			e.fail("two Services have the address %s", third.vip())
		}
	}},
	{name: "should work after the service has been recreated", run: func(e *e2e) {
		client, p := e.pods()[1], e.pods()[3]
		s := e.service("again", "").backends(p)
		e.reaches(client, s.vip(), p)
		before := s.vip()
		s.delete()
		e.fails(client, before)
		s.apply("").endpoints(s.ready(p)...)
		e.reaches(client, s.vip(), p)
	}},
	{name: "should be rejected when no endpoints exist", run: func(e *e2e) { e.refuses(e.pods()[0], e.service("nobody", "").vip()) }},
	{name: "should be rejected when no endpoints exist (from the node)", run: func(e *e2e) { e.refuses(e.nodes[0], e.service("nobody", "").vip()) }},
	{name: "should be rejected for evicted pods (no endpoints exist)", run: func(e *e2e) {
		s := e.service("evicted", "publishNotReadyAddresses: true").backends(e.pods()[3])
		e.reaches(e.pods()[0], s.vip(), e.pods()[3])
		s.endpoints()
		e.refuses(e.pods()[0], s.vip())
	}},
}

func (e *e2e) basicEndpoint(c client) {
	s := e.service("basic", "")
	e.refuses(c, s.vip())
	s.backends(e.pods()[0])
	e.reaches(c, s.vip(), e.pods()[0])
	s.backends(e.pods()[1], e.pods()[3])
	e.reaches(c, s.vip(), e.pods()[1], e.pods()[3])
	s.backends()
	e.refuses(c, s.vip())
}

// objectLines are about the API, and what is served of what it did.
var objectLines = []line{
	{name: "should find a service from listing all namespaces", run: func(e *e2e) {
		e.service("listed", "").backends(e.pods()[3])
		list := e.request(http.MethodGet, "/api/v1/services", "")
		items, _ := list.At("items").([]any)
		for i := range items {
			if list.Text("items", i, "metadata", "namespace") == e.ns {
				s := &service{e: e, ports: []servicePort{{port: 80}}, object: kubetest.Object(items[i].(map[string]any))}
				e.reaches(e.pods()[0], s.vip(), e.pods()[3])
				return
			}
		}
		e.fail("the Service is not in the list of all %d", len(items))
	}},
	{name: "should complete a service status lifecycle", run: func(e *e2e) {
		s := e.service("status", "type: LoadBalancer").backends(e.pods()[3])
		client := e.pods()[0]
		first := s.balancer(e.external())
		e.reaches(client, first, e.pods()[3])
		second := s.balancer(e.external())
		e.reaches(client, second, e.pods()[3])
		e.fails(client, first)
		e.api.UpdateStatus(e.t, "Service", e.ns, s.name, "loadBalancer: null")
		e.fails(client, second)
		e.reaches(client, s.vip(), e.pods()[3])
	}},
	{name: "should delete a collection of services", run: func(e *e2e) {
		client, p := e.pods()[0], e.pods()[4]
		var all []*service
		for _, name := range []string{"a", "b", "kept"} {
			s := e.service(name, "").backends(p)
			all = append(all, s)
			e.reaches(client, s.vip(), p)
			if name != "kept" {
				e.api.Patch(e.t, "Service", e.ns, name, "metadata: {labels: {collection: 'yes'}}")
			}
		}
		e.request(http.MethodDelete, "/api/v1/namespaces/"+e.ns+"/services?labelSelector=collection%3Dyes", "")
		e.fails(client, all[0].vip())
		e.fails(client, all[1].vip())
		e.reaches(client, all[2].vip(), p)
	}},
	{name: "should implement service.kubernetes.io/service-proxy-name", run: func(e *e2e) {
		const label = "metadata: {labels: {service.kubernetes.io/service-proxy-name: %s}}"
		client, pods := e.pods()[0], e.pods()[2:5]
		toggled, steady := e.service("toggled", "").backends(pods...), e.service("steady", "").backends(pods...)
		e.reaches(client, toggled.vip(), pods...)
		e.api.Patch(e.t, "Service", e.ns, toggled.name, fmt.Sprintf(label, "another"))
		e.fails(client, toggled.vip())
		e.reaches(client, steady.vip(), pods...)
		e.api.Patch(e.t, "Service", e.ns, toggled.name, fmt.Sprintf(label, "null"))
		e.reaches(client, toggled.vip(), pods...)
		e.api.Patch(e.t, "Service", e.ns, toggled.name, fmt.Sprintf(label, `""`))
		e.fails(client, toggled.vip())
	}},
	{name: "should implement service.kubernetes.io/headless", run: func(e *e2e) {
		const label = "metadata: {labels: {service.kubernetes.io/headless: %s}}"
		client, pods := e.pods()[0], e.pods()[2:5]
		s := e.service("headless", "")
		s.serve(pods...)
		s.slice("slice", slice{ports: s.ports, pods: pods})
		e.reaches(client, s.vip(), pods...)
		e.api.Patch(e.t, "EndpointSlice", e.ns, "headless-slice", fmt.Sprintf(label, `""`))
		e.refuses(client, s.vip())
		e.api.Patch(e.t, "EndpointSlice", e.ns, "headless-slice", fmt.Sprintf(label, "null"))
		e.reaches(client, s.vip(), pods...)
	}},
}
