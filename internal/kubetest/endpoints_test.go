// SPDX-License-Identifier: Apache-2.0

package kubetest

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSetEndpointsReplacesThem(t *testing.T) {
	api := cluster.Start(t)
	ns := api.Namespace(t)
	api.Apply(t, ns, webService)
	var many []Endpoint
	for i := range 150 {
		many = append(many, Endpoint{Addr: netip.AddrFrom4([4]byte{10, 1, 0, byte(i)}), Node: "n1"})
	}
	six := Endpoint{Addr: netip.MustParseAddr("fd00:1::1")}
	api.SetEndpoints(t, ns, "web", append(many, six)...)
	for name, want := range map[string]int{"web-ipv4-0": 100, "web-ipv4-1": 50, "web-ipv6-0": 1} {
		slice := api.Get(t, "EndpointSlice", ns, name)
		if endpoints, _ := slice.At("endpoints").([]any); len(endpoints) != want {
			t.Errorf("%s has %d endpoints, want %d", name, len(endpoints), want)
		}
		ports := []any{
			map[string]any{"name": "http", "protocol": "TCP", "port": 8080.},
			map[string]any{"name": "dns", "protocol": "UDP", "port": 53.},
		}
		if diff := cmp.Diff(ports, slice.At("ports")); diff != "" {
			t.Errorf("ports of %s (-want +got):\n%s", name, diff)
		}
	}
	api.Apply(t, ns, `
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: by-hand, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints: []
ports: []
`)
	api.SetEndpoints(t, ns, "web", many[:1]...)
	if got := api.Get(t, "EndpointSlice", ns, "web-ipv4-0").Text("endpoints", 0, "addresses", 0); got != "10.1.0.0" {
		t.Errorf("the only endpoint is %s, want 10.1.0.0", got)
	}
	wantGone(t, api, "EndpointSlice", ns, "web-ipv4-1")
	wantGone(t, api, "EndpointSlice", ns, "web-ipv6-0")
	api.Get(t, "EndpointSlice", ns, "by-hand")
}

func TestEndpointsSayTheirStateAndHints(t *testing.T) {
	api := cluster.Start(t)
	ns := api.Namespace(t)
	api.Apply(t, ns, webService)
	addr := netip.MustParseAddr("10.1.0.1")
	api.SetEndpoints(t, ns, "web",
		Endpoint{Addr: addr, Node: "n1", Zone: "a", ForZones: []string{"a", "b"}, ForNodes: []string{"n1"}},
		Endpoint{Addr: addr.Next(), State: NotReady},
		Endpoint{Addr: addr.Next().Next(), State: Draining},
		Endpoint{Addr: addr.Next().Next().Next(), State: Terminating},
		Endpoint{Addr: addr.Next().Next().Next().Next(), State: Published},
	)
	conditions := func(ready, serving, terminating bool) map[string]any {
		return map[string]any{"ready": ready, "serving": serving, "terminating": terminating}
	}
	name := func(s string) any { return map[string]any{"name": s} }
	want := []any{
		map[string]any{
			"addresses": []any{"10.1.0.1"}, "conditions": conditions(true, true, false), "nodeName": "n1", "zone": "a",
			"hints": map[string]any{"forZones": []any{name("a"), name("b")}, "forNodes": []any{name("n1")}},
		},
		map[string]any{"addresses": []any{"10.1.0.2"}, "conditions": conditions(false, false, false)},
		map[string]any{"addresses": []any{"10.1.0.3"}, "conditions": conditions(false, true, true)},
		map[string]any{"addresses": []any{"10.1.0.4"}, "conditions": conditions(false, false, true)},
		map[string]any{"addresses": []any{"10.1.0.5"}, "conditions": conditions(true, true, true)},
	}
	if diff := cmp.Diff(want, api.Get(t, "EndpointSlice", ns, "web-ipv4-0").At("endpoints")); diff != "" {
		t.Errorf("endpoints (-want +got):\n%s", diff)
	}
}
