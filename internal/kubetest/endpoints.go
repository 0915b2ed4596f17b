// SPDX-License-Identifier: Apache-2.0

package kubetest

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"testing"
	"time"
)

// State is an endpoint's three conditions, as the endpointslice controller sets
// them.
type State int

// The states of a pod's life: the first is the usual one. Published is a
// terminating pod of a Service that publishes pods that are not ready.
const (
	Ready       State = iota // ready, serving
	NotReady                 // none
	Draining                 // serving, terminating: it ends, and still answers
	Terminating              // terminating
	Published                // ready, serving, terminating
)

// Endpoint is an endpoint of an EndpointSlice.
type Endpoint struct {
	Addr  netip.Addr
	State State
	// Node and Zone are where it is; "" leaves the field away.
	Node, Zone string
	// ForZones and ForNodes are its topology hints.
	ForZones, ForNodes []string
}

// maxEndpoints is how many endpoints a slice gets at most, as with the
// controller's default.
const maxEndpoints = 100

// managedBy marks the slices of SetEndpoints.
const managedBy = "kubetest"

// SetEndpoints makes the EndpointSlices of a Service say these endpoints and no
// others, as the endpointslice controller would: slices per family, of 100
// endpoints at most, with the Service's ports, whose targetPort must be a
// number. Slices that others made (with Apply, for ports or conditions that are
// not like this) stay.
func (s *Server) SetEndpoints(t testing.TB, namespace, service string, endpoints ...Endpoint) {
	t.Helper()
	ports, err := slicePorts(s.Get(t, "Service", namespace, service))
	if err != nil {
		t.Fatal(err)
	}
	families := make(map[string][]Endpoint)
	for _, e := range endpoints {
		if !e.Addr.IsValid() {
			t.Fatalf("an endpoint of %s/%s has no address: %+v", namespace, service, e)
		}
		e.Addr = e.Addr.Unmap()
		family := "IPv4"
		if e.Addr.Is6() {
			family = "IPv6"
		}
		families[family] = append(families[family], e)
	}
	keep := make(map[string]bool)
	for family, all := range families {
		n := 0
		for part := range slices.Chunk(all, maxEndpoints) {
			o := sliceObject(service, family, n, ports, part)
			s.apply(t, namespace, o)
			keep[o.Name()] = true
			n++
		}
	}
	s.deleteSlices(t, namespace, service, keep)
}

// slicePorts turns a Service's ports into a slice's.
func slicePorts(service Object) ([]any, error) {
	var out []any
	ports, _ := service.At("spec", "ports").([]any)
	for i := range ports {
		target := service.Int("spec", "ports", i, "targetPort")
		if target == 0 {
			return nil, fmt.Errorf("targetPort %v of Service %s is no number: Apply an EndpointSlice that says what it is",
				service.At("spec", "ports", i, "targetPort"), service.Name())
		}
		out = append(out, map[string]any{
			"name":     service.Text("spec", "ports", i, "name"),
			"protocol": service.Text("spec", "ports", i, "protocol"),
			"port":     target,
		})
	}
	return out, nil
}

func sliceObject(service, family string, n int, ports []any, endpoints []Endpoint) Object {
	var list []any
	for _, e := range endpoints {
		list = append(list, e.object())
	}
	return Object{
		"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
		"metadata": map[string]any{
			// an object's name is in lower case
			"name": fmt.Sprintf("%s-ip%s-%d", service, family[2:], n),
			"labels": map[string]any{
				"kubernetes.io/service-name":             service,
				"endpointslice.kubernetes.io/managed-by": managedBy,
			},
			"annotations": map[string]any{
				"endpoints.kubernetes.io/last-change-trigger-time": time.Now().UTC().Format(time.RFC3339Nano),
			},
		},
		"addressType": family,
		"ports":       ports,
		"endpoints":   list,
	}
}

func (e Endpoint) object() map[string]any {
	o := map[string]any{
		"addresses": []any{e.Addr.String()},
		"conditions": map[string]any{
			"ready":       e.State == Ready || e.State == Published,
			"serving":     e.State == Ready || e.State == Draining || e.State == Published,
			"terminating": e.State == Draining || e.State == Terminating || e.State == Published,
		},
	}
	if e.Node != "" {
		o["nodeName"] = e.Node
	}
	if e.Zone != "" {
		o["zone"] = e.Zone
	}
	hints := make(map[string]any)
	for field, names := range map[string][]string{"forZones": e.ForZones, "forNodes": e.ForNodes} {
		var list []any
		for _, name := range names {
			list = append(list, map[string]any{"name": name})
		}
		if list != nil {
			hints[field] = list
		}
	}
	if len(hints) > 0 {
		o["hints"] = hints
	}
	return o
}

// deleteSlices deletes the slices of SetEndpoints that are not to be kept.
func (s *Server) deleteSlices(t testing.TB, namespace, service string, keep map[string]bool) {
	t.Helper()
	ctx := context.Background()
	const kind = "discovery.k8s.io/v1/EndpointSlice"
	r, err := s.resource(ctx, kind)
	if err != nil {
		t.Fatal(err)
	}
	selector := "kubernetes.io/service-name=" + service + ",endpointslice.kubernetes.io/managed-by=" + managedBy
	b, err := s.Request(ctx, http.MethodGet, r.all(namespace)+"?labelSelector="+url.QueryEscape(selector), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	var list struct{ Items []Object }
	if err := json.Unmarshal(b, &list); err != nil {
		t.Fatal(err)
	}
	for _, o := range list.Items {
		if !keep[o.Name()] {
			s.Delete(t, kind, namespace, o.Name())
		}
	}
}
