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

// inParallel is how many requests are under way at a time.
const inParallel = 16

// each does something for all numbers below n.
func each(n int, f func(i int) error) error {
	var g errgroup.Group
	g.SetLimit(inParallel)
	for i := range n {
		g.Go(func() error { return f(i) })
	}
	return g.Wait()
}

// populate makes Services and their endpoints, in slices of 1000 at most.
func populate(t testing.TB, api *kubetest.Server, ns string, s scale) {
	t.Helper()
	began := time.Now()
	defer func() { t.Logf("made %s in %s", s, time.Since(began)) }()
	err := each(s.services, func(i int) error {
		service := fmt.Sprintf(`{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s%d"}, "spec": {"ports": [{"port": 80, "targetPort": 8080}]}}`, i)
		if _, err := api.Request(context.Background(), http.MethodPost, "/api/v1/namespaces/"+ns+"/services", "application/json", []byte(service)); err != nil {
			return err
		}
		_, err := api.Request(context.Background(), http.MethodPost, slicesPath(ns), "application/json", []byte(sliceText(i, s.endpoints, -1)))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func slicesPath(ns string) string {
	return "/apis/discovery.k8s.io/v1/namespaces/" + ns + "/endpointslices"
}

// sliceText is the slice of a Service, without one of its endpoints, if that is not
// negative.
func sliceText(service, endpoints, without int) string {
	var list []string
	for i := range endpoints {
		if i != without {
			list = append(list, fmt.Sprintf(`{"addresses": ["10.%d.%d.%d"]}`, 128+(service*endpoints+i)>>16&127, (service*endpoints+i)>>8&255, (service*endpoints+i)&255))
		}
	}
	return fmt.Sprintf(`{"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "s%d", "labels": {"kubernetes.io/service-name": "s%d"}},
"addressType": "IPv4", "ports": [{"name": "", "protocol": "TCP", "port": 8080}], "endpoints": [%s]}`, service, service, strings.Join(list, ","))
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
