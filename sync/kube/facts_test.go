// SPDX-License-Identifier: Apache-2.0

package kube_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/sync/kube"
)

// balanced is a Service whose load balancer asks machines.
func balanced(name, ip string, port int32) *corev1.Service {
	o := aService(name, ip)
	o.Spec.Type = corev1.ServiceTypeLoadBalancer
	o.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	o.Spec.HealthCheckNodePort = port
	o.Spec.Ports[0].NodePort = port + 1000
	return o
}

func dual(o *corev1.Service, v6 string) *corev1.Service {
	o.Spec.ClusterIPs = []string{o.Spec.ClusterIP, v6}
	o.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}
	return o
}

// at is an endpoint on a node. conditions name the true ones of ready, serving and
// terminating; "": left out.
func at(ip, node, conditions string) discoveryv1.Endpoint {
	e := discoveryv1.Endpoint{Addresses: []string{ip}, NodeName: ptr(node)}
	if conditions != "" {
		is := func(word string) *bool { return ptr(strings.Contains(conditions, word)) }
		e.Conditions = discoveryv1.EndpointConditions{Ready: is("ready"), Serving: is("serving"), Terminating: is("terminating")}
	}
	return e
}

// named is a slice of a Service, of IPv6 if its first address is.
func named(name, of string, endpoints ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	o := aSlice(of)
	o.Name, o.Endpoints = name, endpoints
	if len(endpoints) > 0 && strings.Contains(endpoints[0].Addresses[0], ":") {
		o.AddressType = discoveryv1.AddressTypeIPv6
	}
	return o
}

// world is a store and what it says.
type world struct {
	*kube.Store
	t *testing.T
}

func newWorld(t *testing.T) *world {
	t.Helper()
	store, err := kube.NewStore(kube.Translation{NodeName: "here"})
	if err != nil {
		t.Fatal(err)
	}
	return &world{store, t}
}

func (w *world) facts() (kube.Facts, bool) {
	w.t.Helper()
	if _, _, err := w.Flush(); err != nil {
		w.t.Fatal(err)
	}
	return w.Facts()
}

// wantChecks compares health checks: "web/ipv4:32000 2" has two endpoints here.
func (w *world) wantChecks(want string) {
	w.t.Helper()
	f, _ := w.facts()
	var got []string
	for _, c := range f.HealthChecks {
		if c.Service.Kind != "Service" || c.Service.Namespace != "ns" || c.Service.UID != "uid" {
			w.t.Errorf("health check of %+v", c.Service)
		}
		got = append(got, fmt.Sprintf("%s/%s:%d %d", c.Service.Name, c.Family, c.Port, c.Local))
	}
	if diff := cmp.Diff(want, strings.Join(got, ", ")); diff != "" {
		w.t.Errorf("health checks (-want +got):\n%s", diff)
	}
}

// dumpFacts has what does not depend on what was before.
func dumpFacts(store *kube.Store) string {
	f, _ := store.Facts()
	out := fmt.Sprintln("eligible", f.Eligible, "without local endpoints", f.NoLocal[lb.IPv4], f.NoLocal[lb.IPv6])
	for _, c := range f.HealthChecks {
		out += fmt.Sprintln("health check", c.Service.Name, c.Family, c.Port, c.Local)
	}
	return out
}

func TestWhichServicesAreAskedFor(t *testing.T) {
	w := newWorld(t)
	w.SetService(balanced("web", "10.96.0.1", 32000))
	w.SetService(dual(balanced("a", "10.96.0.2", 32001), "fd00::2"))
	for name, change := range map[string]func(*corev1.Service){
		"cluster":  func(o *corev1.Service) { o.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyCluster },
		"nodeport": func(o *corev1.Service) { o.Spec.Type = corev1.ServiceTypeNodePort },
		"portless": func(o *corev1.Service) { o.Spec.HealthCheckNodePort = 0 },
		"headless": func(o *corev1.Service) { o.Spec.ClusterIP = "None" },
	} {
		o := balanced(name, "10.96.0.9", 32009)
		change(o)
		w.SetService(o)
	}
	w.wantChecks("a/ipv4:32001 0, a/ipv6:32001 0, web/ipv4:32000 0")
	w.SetService(balanced("web", "10.96.0.1", 32005))
	w.wantChecks("a/ipv4:32001 0, a/ipv6:32001 0, web/ipv4:32005 0")
	w.DeleteService(types.NamespacedName{Namespace: "ns", Name: "web"})
	w.SetService(balanced("a", "10.96.0.2", 32001))
	w.wantChecks("a/ipv4:32001 0")
	o := balanced("a", "10.96.0.2", 32001)
	o.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyCluster
	w.SetService(o)
	w.wantChecks("")
}

func TestHowManyEndpointsAMachineHas(t *testing.T) {
	other := named("web-2", "web", at("10.1.0.1", "here", ""), at("10.1.0.3", "here", ""))
	other.Ports[0].Port = ptr(int32(9090))
	none := named("web-3", "web", at("10.1.0.9", "here", ""))
	none.Ports[0].Name = ptr("another")
	for _, tc := range []struct {
		name   string
		slices []*discoveryv1.EndpointSlice
		want   int
	}{
		{"ready here", []*discoveryv1.EndpointSlice{named("web-1", "web", at("10.1.0.1", "here", ""), at("10.1.0.2", "here", "ready serving"))}, 2},
		{"elsewhere, and nowhere", []*discoveryv1.EndpointSlice{named("web-1", "web", at("10.1.0.1", "there", ""), discoveryv1.Endpoint{Addresses: []string{"10.1.0.2"}})}, 0},
		{"not ready", []*discoveryv1.EndpointSlice{named("web-1", "web", at("10.1.0.1", "here", "serving"), at("10.1.0.2", "here", "none"))}, 0},
		{"terminating, and serving", []*discoveryv1.EndpointSlice{named("web-1", "web", at("10.1.0.1", "here", "serving terminating"))}, 0},
		{"terminating, and published", []*discoveryv1.EndpointSlice{named("web-1", "web", at("10.1.0.1", "here", "ready terminating"))}, 1},
		{"an address at two ports is one", []*discoveryv1.EndpointSlice{named("web-1", "web", at("10.1.0.1", "here", "")), other}, 2},
		{"at a port that the Service does not have", []*discoveryv1.EndpointSlice{none}, 0},
		{"the address of one that goes, used again", []*discoveryv1.EndpointSlice{
			named("web-1", "web", at("10.1.0.1", "here", "serving terminating")), named("web-2", "web", at("10.1.0.1", "here", "ready serving")),
		}, 1},
		{"of another family", []*discoveryv1.EndpointSlice{named("web-1", "web", at("fd00::1", "here", ""))}, 0},
	} {
		w := newWorld(t)
		w.SetService(balanced("web", "10.96.0.1", 32000))
		for _, s := range tc.slices {
			w.SetSlice(s)
		}
		t.Run(tc.name, func(t *testing.T) {
			w.t = t
			w.wantChecks(fmt.Sprintf("web/ipv4:32000 %d", tc.want))
		})
	}
	w := newWorld(t)
	w.SetService(dual(balanced("web", "10.96.0.1", 32000), "fd00::1"))
	w.SetSlice(named("web-1", "web", at("10.1.0.1", "here", "")))
	w.SetSlice(named("web-2", "web", at("fd00:1::1", "here", ""), at("fd00:1::2", "here", "")))
	w.wantChecks("web/ipv4:32000 1, web/ipv6:32000 2")
}

func TestWhatIsNotOnThisMachineIsCounted(t *testing.T) {
	w := newWorld(t)
	want := func(v4, v6 kube.NoLocal) {
		t.Helper()
		f, _ := w.facts()
		got := [2]kube.NoLocal{f.NoLocal[lb.IPv4], f.NoLocal[lb.IPv6]}
		if diff := cmp.Diff([2]kube.NoLocal{v4, v6}, got); diff != "" {
			t.Errorf("services without local endpoints (-want +got):\n%s", diff)
		}
	}
	none := kube.NoLocal{}
	o := dual(balanced("web", "10.96.0.1", 32000), "fd00::1")
	w.SetService(o)
	want(none, none) // nobody serves it anywhere: it is refused
	w.SetSlice(named("web-4", "web", at("10.1.0.1", "there", "")))
	w.SetSlice(named("web-6", "web", at("fd00:1::1", "here", "")))
	want(kube.NoLocal{External: 1}, none)
	o.Spec.InternalTrafficPolicy = ptr(corev1.ServiceInternalTrafficPolicyLocal)
	o.Spec.Ports = append(o.Spec.Ports, corev1.ServicePort{Name: "b", Port: 81, NodePort: 33001})
	w.SetService(o)
	want(kube.NoLocal{Internal: 1, External: 1}, none) // the other port has no endpoints
	w.SetSlice(named("web-6", "web", at("fd00:1::1", "here", "none"), at("fd00:1::2", "there", "")))
	want(kube.NoLocal{Internal: 1, External: 1}, kube.NoLocal{Internal: 1, External: 1})
	w.SetSlice(named("web-4", "web", at("10.1.0.1", "there", ""), at("10.1.0.2", "here", "serving terminating")))
	want(none, kube.NoLocal{Internal: 1, External: 1})
	w.DeleteService(types.NamespacedName{Namespace: "ns", Name: "web"})
	want(none, none)
}

func TestEligibleNodes(t *testing.T) {
	w := newWorld(t)
	want := func(what string, eligible bool) {
		t.Helper()
		if f, _ := w.facts(); f.Eligible != eligible {
			t.Errorf("%s: eligible %t", what, f.Eligible)
		}
	}
	want("no Node", false)
	other := aNode("192.0.2.8")
	other.Name = "there"
	w.SetNode(other)
	want("another's Node", false)
	node := aNode("192.0.2.9")
	node.Spec.Taints = []corev1.Taint{{Key: "another", Effect: corev1.TaintEffectNoSchedule}}
	w.SetNode(node)
	want("a Node", true)
	marked := node.DeepCopy()
	marked.Spec.Taints = append(marked.Spec.Taints, corev1.Taint{Key: "ToBeDeletedByClusterAutoscaler", Effect: corev1.TaintEffectPreferNoSchedule})
	w.SetNode(marked)
	want("to be deleted", false)
	w.SetNode(node)
	want("unmarked", true)
	marked = node.DeepCopy()
	marked.DeletionTimestamp = ptr(metav1.Unix(1, 0))
	w.SetNode(marked)
	want("being deleted", false)
	w.SetNode(node)
	w.DeleteNode("there")
	want("another's is gone", true)
	w.DeleteNode("here")
	want("gone", false)
	if snap, _, _ := w.Flush(); len(snap.Node().NodePorts) != 1 {
		t.Error("the machine's addresses are gone with its Node")
	}
}

const triggerTime = "endpoints.kubernetes.io/last-change-trigger-time"

func since(o *discoveryv1.EndpointSlice, at string) *discoveryv1.EndpointSlice {
	o.Annotations = map[string]string{triggerTime: at}
	return o
}

func TestTriggersAndChanges(t *testing.T) {
	w := newWorld(t)
	want := func(services, slices int, triggers ...string) {
		t.Helper()
		f, news := w.facts()
		var got []string
		for _, g := range f.Triggers {
			got = append(got, g.Family.String()+" "+g.At.Format(time.RFC3339Nano))
		}
		if diff := cmp.Diff(triggers, got); diff != "" {
			t.Errorf("triggers (-want +got):\n%s", diff)
		}
		if f.Services != services || f.Slices != slices || news != (services+slices > 0) {
			t.Errorf("%d services and %d slices changed, news %t; want %d, %d", f.Services, f.Slices, news, services, slices)
		}
	}
	v4, v6 := named("web-1", "web", at("10.1.0.1", "there", "")), named("web-2", "web", at("fd00:1::1", "there", ""))
	w.SetNode(aNode("192.0.2.9"))
	w.facts()
	w.SetService(aService("web", "10.96.0.1"))
	w.SetSlice(since(v4, "2026-01-01T00:00:02.5Z"))
	w.SetSlice(since(v6, "2026-01-01T00:00:01Z"))
	want(1, 2, "ipv6 2026-01-01T00:00:01Z", "ipv4 2026-01-01T00:00:02.5Z")
	want(0, 0)

	w.SetSlice(since(v4, "2026-01-01T00:00:02.5Z")) // listed again
	want(0, 1)
	w.SetSlice(since(v4, "2026-01-01T00:00:03Z"))
	w.SetSlice(since(v4, "2026-01-01T00:00:04Z"))
	want(0, 2, "ipv4 2026-01-01T00:00:03Z", "ipv4 2026-01-01T00:00:04Z")
	w.SetSlice(since(v4, "yesterday"))
	w.SetSlice(named("web-1", "web"))
	want(0, 2)

	// what goes with a slice was never seen
	w.SetSlice(since(v4, "2026-01-01T00:00:05Z"))
	w.SetSlice(since(v6, "2026-01-01T00:00:06Z"))
	w.DeleteSlice(types.NamespacedName{Namespace: "ns", Name: "web-1"})
	want(0, 3, "ipv6 2026-01-01T00:00:06Z")

	// a slice of a Service that is not there is a change, too; what nobody serves is none
	w.SetSlice(since(named("gone-1", "gone", at("10.1.0.1", "there", "")), "2026-01-01T00:00:07Z"))
	w.SetService(aService("headless", "None"))
	w.DeleteSlice(types.NamespacedName{Namespace: "ns", Name: "never"})
	want(0, 1, "ipv4 2026-01-01T00:00:07Z")
	w.DeleteService(types.NamespacedName{Namespace: "ns", Name: "web"})
	want(1, 0)
}

func TestOnlyWhatIsTriggeredAfterTheStartIsDelivered(t *testing.T) {
	api := small(t)
	old := time.Now().Add(-time.Minute).UTC().Format(time.RFC3339Nano)
	soon := time.Now().Add(time.Minute).UTC()
	api.put(since(aSlice("web", "10.1.0.1"), old))
	f := follow(t, api, nil)
	f.want(smallState)
	api.put(since(aSlice("web", "10.1.0.2"), soon.Format(time.RFC3339Nano)))
	f.wait("the second state", func() bool { return len(f.snaps) == 2 })
	// it is listed again, and an old time that comes late counts as little as at the start
	api.update(func() { api.hold["endpointslices"] = true })
	api.put(since(aSlice("other", "10.1.0.3"), old))
	api.compact()
	api.update(func() { clear(api.hold) })
	f.wait("all slices listed again", func() bool { return f.slices >= 4 })
	if len(f.triggers) != 1 || !f.triggers[0].At.Equal(soon) || f.triggers[0].Family != lb.IPv4 {
		t.Errorf("triggers %v, want one at %v", f.triggers, soon)
	}
	if f.services < 1 {
		t.Errorf("%d changes of services", f.services)
	}
}

func TestANodeIsNotEligibleWhileItIsUnknown(t *testing.T) {
	api := small(t)
	f := follow(t, api, nil)
	f.want(smallState)
	f.wait("an eligible Node", func() bool { return f.last.Eligible })
	node := aNode("192.0.2.9")
	node.Spec.Taints = []corev1.Taint{{Key: "ToBeDeletedByClusterAutoscaler"}}
	api.put(node)
	f.wait("a Node that is to be deleted", func() bool { return !f.last.Eligible })
	api.put(aNode("192.0.2.9"))
	f.wait("an eligible Node", func() bool { return f.last.Eligible })

	// its end is only in the next list
	api.update(func() { api.hold["nodes"] = true })
	api.remove("nodes/here")
	api.compact()
	api.update(func() { clear(api.hold) })
	f.wait("no Node", func() bool { return !f.last.Eligible })
	f.want(smallState)

	// services change meanwhile, and what else is told stays
	api.put(aNode("192.0.2.9"), balanced("asked", "10.96.0.2", 32000))
	f.wait("a health check of an eligible Node", func() bool { return f.last.Eligible && len(f.last.HealthChecks) == 1 })
	api.put(aRange("10.97.0.0/16"))
	f.wait("another range", func() bool { return strings.Contains(f.state(), "10.97.0.0/16") })
	if !f.last.Eligible || len(f.last.HealthChecks) != 1 {
		t.Errorf("with another range it says %+v", f.last.Facts)
	}
}
