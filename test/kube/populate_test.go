// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package kube_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/waggle-lb/waggle/internal/kubetest"
)

// portsOf is how many ports a Service has here: each is a service to the dataplane, with
// an EndpointSlice of its own. The API server counts all cluster IPs for each that it
// gives, so as many Services as that would keep it busy for minutes.
const portsOf = 10

// populate makes services and their endpoints, in slices of 1000 at most.
func populate(t testing.TB, api *kubetest.Server, ns string, s scale) {
	t.Helper()
	began := time.Now()
	defer func() { t.Logf("made %s in %s", s, time.Since(began)) }()
	var g errgroup.Group
	g.SetLimit(16) // requests at a time
	post := func(path, text string) error {
		_, err := api.Request(context.Background(), http.MethodPost, path, "application/yaml", []byte(text))
		return err
	}
	for i := range s.services / portsOf {
		g.Go(func() error {
			var ports []string
			for p := range portsOf {
				ports = append(ports, fmt.Sprintf("{name: p%d, port: %d}", p, 80+p))
			}
			text := fmt.Sprintf("{apiVersion: v1, kind: Service, metadata: {name: s%d}, spec: {ports: [%s]}}", i, strings.Join(ports, ", "))
			if err := post("/api/v1/namespaces/"+ns+"/services", text); err != nil {
				return err
			}
			for p := range portsOf {
				if err := post(slicesPath(ns), sliceText(i*portsOf+p, s.endpoints, -1)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
}

func slicesPath(ns string) string {
	return "/apis/discovery.k8s.io/v1/namespaces/" + ns + "/endpointslices"
}

// sliceText is the slice of a service, without one of its endpoints, if that is not
// negative.
func sliceText(service, endpoints, without int) string {
	var list []string
	for i := range endpoints {
		if i != without {
			list = append(list, fmt.Sprintf(`{"addresses": ["10.%d.%d.%d"]}`, 128+(service*endpoints+i)>>16&127, (service*endpoints+i)>>8&255, (service*endpoints+i)&255))
		}
	}
	return fmt.Sprintf(`{"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "s%d", "labels": {"kubernetes.io/service-name": "s%d"}},
"addressType": "IPv4", "ports": [{"name": "p%d", "protocol": "TCP", "port": 8080}], "endpoints": [%s]}`,
		service, service/portsOf, service%portsOf, strings.Join(list, ","))
}

// change takes an endpoint from a Service, or brings it back: which one follows from i.
func change(t testing.TB, api *kubetest.Server, ns string, s scale, i int) {
	t.Helper()
	service, without := i/2%s.services, 3
	if i%2 == 1 {
		without = -1
	}
	path := fmt.Sprintf("%s/s%d", slicesPath(ns), service)
	if _, err := api.Request(context.Background(), http.MethodPut, path, "application/json", []byte(sliceText(service, s.endpoints, without))); err != nil {
		t.Fatal(err)
	}
}
