// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package kube_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"

	"github.com/waggle-lb/waggle/internal/kubetest"
)

// slice is an EndpointSlice that a line makes itself.
type slice struct {
	ports      []servicePort
	conditions string // as YAML in braces leaves them; "": ready
	pods       []*pod
}

// slice makes one of the Service, of this name after the Service's, or changes it.
func (s *service) slice(name string, from slice) {
	var ports, endpoints []string
	for _, p := range from.ports {
		ports = append(ports, fmt.Sprintf("{name: %q, protocol: %s, port: %d}", p.name, p.protocol, p.target))
	}
	for _, p := range from.pods {
		endpoints = append(endpoints, fmt.Sprintf("{addresses: [%q], nodeName: %s, zone: %s, conditions: {%s}}",
			p.addr(s.e.v6), p.node.name, p.node.zone(), from.conditions))
	}
	s.e.object(fmt.Sprintf(`
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: %[1]s-%[2]s, labels: {kubernetes.io/service-name: %[1]s}}
addressType: %[3]s
ports: [%[4]s]
endpoints: [%[5]s]`, s.name, name, s.e.family(), strings.Join(ports, ", "), strings.Join(endpoints, ", ")))
}

// request sends one to the API server as an admin, with a body of YAML or none.
func (e *e2e) request(method, path, body string) (o kubetest.Object) {
	b, err := e.api.Request(context.Background(), method, path, "application/yaml", []byte(body))
	e.try(err)
	e.try(json.Unmarshal(b, &o))
	return o
}

// invalid fails unless the API server refuses to make a Service of this spec.
func (e *e2e) invalid(spec string) {
	body := fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {name: invalid}\nspec: {%s}", spec)
	_, err := e.api.Request(context.Background(), http.MethodPost, "/api/v1/namespaces/"+e.ns+"/services", "application/yaml", []byte(body))
	var status *kubetest.StatusError
	if !errors.As(err, &status) || status.Code != http.StatusUnprocessableEntity {
		e.fail("the API server was to refuse a Service of spec {%s}: %v", spec, err)
	}
}

// hostPod is a pod in the node's own network (hostNetwork).
func (n *node) hostPod() *pod { return &pod{*n.host, n} }

// itself is the source that who does not masquerade shows.
func (h *host) itself(e *e2e) func(*pod) netip.Addr {
	return func(*pod) netip.Addr { return h.addr(e.v6) }
}

// masked is the source that a node shows which masquerades: its address on the way to
// the pod.
func (n *node) masked(e *e2e) func(*pod) netip.Addr {
	return func(p *pod) netip.Addr {
		if p.node == n {
			return podAddr(n.number, 1, e.v6)
		}
		return n.addr(e.v6)
	}
}

// atNodes checks that each node serves all ports of the Service, to its own pods, to
// those of another, and outside.
func (s *service) atNodes(pods ...*pod) {
	for i, p := range s.ports {
		for _, n := range s.e.nodes {
			for _, c := range []client{s.e.outside, s.e.pods()[1], s.e.pods()[4]} {
				s.e.reachesBy(strings.ToLower(p.protocol), c, s.nodePort(n, i), pods...)
			}
		}
	}
}
