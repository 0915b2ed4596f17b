// SPDX-License-Identifier: Apache-2.0

package kubetest

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var cluster Shared

func TestMain(m *testing.M) {
	if os.Getenv(childVariable) != "" {
		child()
	}
	os.Exit(m.Run())
}

const webService = `
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  ipFamilyPolicy: PreferDualStack
  ports:
  - {name: http, port: 80, targetPort: 8080}
  - {name: dns, port: 53, protocol: UDP}
`

func TestServicesAreGivenAddressesAndPorts(t *testing.T) {
	api := cluster.Start(t)
	web := api.Apply(t, api.Namespace(t), webService)[0]
	ips := web.Texts("spec", "clusterIPs")
	if len(ips) != 2 {
		t.Fatalf("clusterIPs %v, want one of each family", ips)
	}
	for i, cidr := range []string{"10.96.0.0/16", "fd00:10:96::/112"} {
		if ip := netip.MustParseAddr(ips[i]); !netip.MustParsePrefix(cidr).Contains(ip) {
			t.Errorf("ClusterIP %v is not in %s", ip, cidr)
		}
	}
	for i := range 2 {
		if port := web.Int("spec", "ports", i, "nodePort"); port < 30000 || port > 32767 {
			t.Errorf("node port %d of port %d is not in 30000-32767", port, i)
		}
	}
}

func TestWatchSeesWhatChanges(t *testing.T) {
	api := cluster.Start(t)
	ns := api.Namespace(t)
	started, ended := make(chan struct{}), make(chan error, 1)
	api.Apply(t, ns, "{apiVersion: v1, kind: ConfigMap, metadata: {name: first}}")
	var seen []string
	go func() {
		ended <- api.watch(t.Context(), "/api/v1/namespaces/"+ns+"/configmaps", func(o Object) bool {
			if len(seen) == 0 {
				close(started)
			}
			seen = append(seen, o.Name()+o.Text("data", "k"))
			return len(seen) == 3
		})
	}()
	<-started
	api.Apply(t, ns, "{apiVersion: v1, kind: ConfigMap, metadata: {name: second}}")
	api.Patch(t, "ConfigMap", ns, "first", "data: {k: -changed}")
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"first", "second", "first-changed"}, seen); diff != "" {
		t.Errorf("what the watch saw (-want +got):\n%s", diff)
	}
}

func TestAwaitFindsWhatIsThereAndWhatComes(t *testing.T) {
	api := cluster.Start(t)
	ns := api.Namespace(t)
	api.Apply(t, ns, webService)
	go func() {
		// in another goroutine, which must not fail the test: Await does then
		body := []byte(`{"metadata": {"name": "late"}, "involvedObject": {"namespace": "` + ns + `"}, "reason": "Late"}`)
		_, _ = api.Request(t.Context(), http.MethodPost, "/api/v1/namespaces/"+ns+"/events", jsonType, body)
	}()
	late := api.Await(t, "Event", ns, "with reason Late", func(o Object) bool { return o.Text("reason") == "Late" })
	web := api.Await(t, "Service", "", "web of this test", func(o Object) bool { return o.Text("metadata", "namespace") == ns })
	if late.Name() != "late" || web.Name() != "web" {
		t.Errorf("got %s and %s, want late and web", late.Name(), web.Name())
	}
}

func TestStatusOfALoadBalancer(t *testing.T) {
	api := cluster.Start(t)
	ns := api.Namespace(t)
	api.Apply(t, ns, strings.Replace(webService, "NodePort", "LoadBalancer", 1))
	api.UpdateStatus(t, "Service", ns, "web", "loadBalancer: {ingress: [{ip: 192.0.2.1}, {ip: 192.0.2.2, ipMode: Proxy}]}")
	web := api.Get(t, "Service", ns, "web")
	want := []any{map[string]any{"ip": "192.0.2.1", "ipMode": "VIP"}, map[string]any{"ip": "192.0.2.2", "ipMode": "Proxy"}}
	if diff := cmp.Diff(want, web.At("status", "loadBalancer", "ingress")); diff != "" {
		t.Errorf("ingress (-want +got):\n%s", diff)
	}
	web = api.UpdateStatus(t, "Service", ns, "web", "loadBalancer: null")
	if got := web.At("status", "loadBalancer", "ingress"); got != nil {
		t.Errorf("ingress is %v after it was removed", got)
	}
}

func TestApplyRemovesWhatIsNotSaidAnyMore(t *testing.T) {
	api := cluster.Start(t)
	ns := api.Namespace(t)
	before := api.Apply(t, ns, webService)[0]
	after := api.Apply(t, ns, strings.Replace(webService, "  - {name: dns, port: 53, protocol: UDP}\n", "", 1))[0]
	if ports, _ := after.At("spec", "ports").([]any); len(ports) != 1 || after.Text("spec", "ports", 0, "name") != "http" {
		t.Errorf("%v are left, want http", ports)
	}
	if a, b := before.Text("spec", "clusterIP"), after.Text("spec", "clusterIP"); a != b {
		t.Errorf("the ClusterIP changed from %s to %s", a, b)
	}
}

func TestRefusalsSayWhy(t *testing.T) {
	api := cluster.Start(t)
	ns := api.Namespace(t)
	body := []byte(`{"metadata": {"name": "web"}, "spec": {"ports": [{"port": 70000}]}}`)
	_, err := api.Request(t.Context(), http.MethodPost, "/api/v1/namespaces/"+ns+"/services", jsonType, body)
	var status *StatusError
	if !errors.As(err, &status) || status.Code != http.StatusUnprocessableEntity || !strings.Contains(status.Message, "spec.ports[0].port") {
		t.Errorf("a port of 70000 gives %v, want 422 that names the field", err)
	}
	if _, err := api.resource(t.Context(), "Gadget"); err == nil || !strings.Contains(err.Error(), "Gadget") {
		t.Errorf("an unknown kind gives %v", err)
	}
}

func TestNodes(t *testing.T) {
	api := cluster.Start(t)
	t.Run("set", func(t *testing.T) {
		n := Node{
			Name: "n1", Zone: "a",
			Addrs:    []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")},
			PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/24"), netip.MustParsePrefix("fd00:1::/64")},
		}
		api.SetNode(t, n)
		n.Zone, n.Addrs = "b", n.Addrs[1:]
		got := api.SetNode(t, n)
		if zone := got.Text("metadata", "labels", "topology.kubernetes.io/zone"); zone != "b" {
			t.Errorf("zone is %q, want b", zone)
		}
		if diff := cmp.Diff([]string{"10.1.0.0/24", "fd00:1::/64"}, got.Texts("spec", "podCIDRs")); diff != "" {
			t.Errorf("podCIDRs (-want +got):\n%s", diff)
		}
		want := []any{map[string]any{"type": "InternalIP", "address": "2001:db8::1"}}
		if diff := cmp.Diff(want, got.At("status", "addresses")); diff != "" {
			t.Errorf("addresses (-want +got):\n%s", diff)
		}
	})
	wantGone(t, api, "Node", "", "n1")
}

func wantGone(t *testing.T, api *Server, kind, namespace, name string) {
	t.Helper()
	_, path, err := api.path(t.Context(), kind, namespace, name)
	if err != nil {
		t.Fatal(err)
	}
	var status *StatusError
	if _, err := api.Request(t.Context(), http.MethodGet, path, "", nil); !errors.As(err, &status) || status.Code != http.StatusNotFound {
		t.Errorf("%s %s is still there or the server does not say: %v", kind, name, err)
	}
}

func TestWhatATestMakesEndsWithIt(t *testing.T) {
	api := cluster.Start(t)
	const fixed = `
apiVersion: v1
kind: Service
metadata: {name: fixed}
spec: {type: NodePort, clusterIP: 10.96.77.77, ports: [{port: 80, nodePort: 32123}]}
---
apiVersion: v1
kind: Pod
metadata: {name: pod}
spec: {nodeName: n1, containers: [{name: c, image: i}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: elsewhere, namespace: kube-system}
`
	var namespaces []string
	for _, name := range []string{"first", "second"} {
		// the second gets what the first had, so that is free again
		t.Run(name, func(t *testing.T) {
			ns := api.Namespace(t)
			namespaces = append(namespaces, ns)
			api.Apply(t, ns, fixed)
			api.SetEndpoints(t, ns, "fixed", Endpoint{Addr: netip.MustParseAddr("10.1.0.1")})
		})
	}
	for _, ns := range namespaces {
		wantGone(t, api, "Namespace", "", ns)
		wantGone(t, api, "Pod", ns, "pod")
		wantGone(t, api, "EndpointSlice", ns, "fixed-ipv4-0")
	}
	wantGone(t, api, "ConfigMap", "kube-system", "elsewhere")
}

func TestRestartKeepsWhatThereIs(t *testing.T) {
	api := cluster.Start(t)
	for name, end := range map[string]func(testing.TB){"stopped": api.Stop, "killed": api.Kill} {
		t.Run(name, func(t *testing.T) {
			ns := api.Namespace(t)
			before := api.Apply(t, ns, webService)[0]
			watching, ended := make(chan struct{}), make(chan error, 1)
			go func() {
				// a watch ends with the server
				ended <- api.watch(context.Background(), "/api/v1/namespaces/"+ns+"/services", func(Object) bool {
					close(watching)
					return false
				})
			}()
			<-watching
			end(t)
			if err := <-ended; err == nil {
				t.Error("the watch found something")
			}
			if _, err := api.Request(t.Context(), http.MethodGet, "/readyz", "", nil); err == nil {
				t.Error("the server answers though it is stopped")
			}
			api.Restart(t)
			after := api.Get(t, "Service", ns, "web")
			if diff := cmp.Diff(before, after); diff != "" {
				t.Errorf("the Service (-before +after):\n%s", diff)
			}
			second := api.Apply(t, ns, strings.Replace(webService, "web", "second", 1))[0]
			if a, b := before.Text("spec", "clusterIP"), second.Text("spec", "clusterIP"); a == b {
				t.Errorf("two Services have %s", a)
			}
		})
	}
}
