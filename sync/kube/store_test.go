// SPDX-License-Identifier: Apache-2.0

package kube_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/sync/kube"
)

func ptr[T any](v T) *T { return &v }

// cluster is what the API server would have.
type cluster struct {
	services map[string]*corev1.Service
	slices   map[string]*discoveryv1.EndpointSlice
	node     *corev1.Node
	ranges   map[string]*networkingv1.ServiceCIDR
}

// from makes a store of all of it at once.
func (c *cluster) from(t rapid.TB, tr kube.Translation) *kube.Store {
	store, err := kube.NewStore(tr)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range c.slices {
		store.SetSlice(o)
	}
	for _, o := range c.services {
		store.SetService(o)
	}
	for _, o := range c.ranges {
		store.SetServiceCIDR(o)
	}
	if c.node != nil {
		store.SetNode(c.node)
	}
	return store
}

// drawService draws from few names, addresses and ports, so that they clash.
func drawService(t *rapid.T, name string) *corev1.Service {
	from := func(label string, of ...string) string { return rapid.SampledFrom(of).Draw(t, label) }
	o := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, Labels: map[string]string{}}}
	o.CreationTimestamp = metav1.Unix(int64(rapid.IntRange(0, 2).Draw(t, "created")), 0)
	o.Spec.Type = corev1.ServiceType(from("type", "ClusterIP", "NodePort", "LoadBalancer", "ExternalName"))
	o.Spec.ClusterIP = "10.96.0." + name[1:]
	o.Spec.ClusterIPs = []string{o.Spec.ClusterIP}
	o.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol}
	if rapid.Bool().Draw(t, "dual") {
		o.Spec.ClusterIPs = append(o.Spec.ClusterIPs, "fd00:96::"+name[1:])
		o.Spec.IPFamilies = append(o.Spec.IPFamilies, corev1.IPv6Protocol)
	}
	o.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicy(from("eTP", "Cluster", "Local"))
	o.Spec.InternalTrafficPolicy = ptr(corev1.ServiceInternalTrafficPolicy(from("iTP", "Cluster", "Local")))
	o.Spec.HealthCheckNodePort = int32(rapid.SampledFrom([]int{0, 32000, 32001}).Draw(t, "health check"))
	for i := range rapid.IntRange(1, 2).Draw(t, "ports") {
		o.Spec.Ports = append(o.Spec.Ports, corev1.ServicePort{
			Name: []string{"a", "b"}[i], Port: int32(80 + i), NodePort: int32(rapid.SampledFrom([]int{0, 30080, 30081}).Draw(t, "node port")),
		})
	}
	o.Spec.ExternalIPs = rapid.SliceOfN(rapid.SampledFrom([]string{"203.0.113.1", "203.0.113.2", "192.0.2.1", "10.96.0.1"}), 0, 2).Draw(t, "external")
	o.Spec.LoadBalancerSourceRanges = rapid.SliceOfN(rapid.SampledFrom([]string{"192.0.2.0/24", "198.51.100.0/24", "0.0.0.0/0"}), 0, 2).Draw(t, "ranges")
	for range rapid.IntRange(0, 2).Draw(t, "ingress") {
		o.Status.LoadBalancer.Ingress = append(o.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: from("ip", "203.0.113.1", "203.0.113.2", "2001:db8::1")})
	}
	o.Annotations = rapid.SampledFrom([]map[string]string{
		nil, {kube.SchedulerAnnotation: "lc"}, {kube.ZoneWeightsAnnotation: "a=5"}, {kube.SchedulerAnnotation: "x"},
	}).Draw(t, "annotations")
	if from("label", "", "", "", "x") != "" {
		o.Labels["service.kubernetes.io/service-proxy-name"] = "x"
	}
	return o
}

func drawSlice(t *rapid.T, name string) *discoveryv1.EndpointSlice {
	of := rapid.SampledFrom([]string{"s1", "s2", "s3", ""}).Draw(t, "service")
	o := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: of}}}
	o.AddressType = discoveryv1.AddressType(rapid.SampledFrom([]string{"IPv4", "IPv6"}).Draw(t, "family"))
	if w := rapid.SampledFrom([]string{"", "", "7", "x"}).Draw(t, "weight"); w != "" {
		o.Annotations = map[string]string{kube.WeightAnnotation: w}
	}
	for _, p := range []string{"a", "b"} {
		o.Ports = append(o.Ports, discoveryv1.EndpointPort{Name: &p, Port: ptr(int32(rapid.IntRange(8080, 8081).Draw(t, "port")))})
	}
	for range rapid.IntRange(0, 3).Draw(t, "endpoints") {
		n := rapid.IntRange(1, 4).Draw(t, "address")
		e := discoveryv1.Endpoint{Addresses: []string{fmt.Sprintf("10.1.0.%d", n)}}
		if o.AddressType == "IPv6" {
			e.Addresses = []string{fmt.Sprintf("fd00:1::%d", n)}
		}
		if node := rapid.SampledFrom([]string{"", "here", "there"}).Draw(t, "node"); node != "" {
			e.NodeName = &node
		}
		e.Conditions = rapid.SampledFrom([]discoveryv1.EndpointConditions{
			{}, {Ready: ptr(false), Serving: ptr(true), Terminating: ptr(true)}, {Ready: ptr(false), Serving: ptr(false)},
		}).Draw(t, "conditions")
		if z := rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "zone"); z != "" {
			e.Zone, e.Hints = &z, &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: z}}}
		}
		o.Endpoints = append(o.Endpoints, e)
	}
	return o
}

func drawNode(t *rapid.T) *corev1.Node {
	o := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "here", Labels: map[string]string{}}}
	o.Labels[corev1.LabelTopologyZone] = rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "zone")
	for _, a := range rapid.SliceOfN(rapid.SampledFrom([]string{"192.0.2.9", "198.51.100.9", "2001:db8::9"}), 0, 2).Draw(t, "addresses") {
		o.Status.Addresses = append(o.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a})
	}
	o.Spec.PodCIDRs = rapid.SliceOfN(rapid.SampledFrom([]string{"10.1.0.0/24", "fd00:1::/64"}), 0, 2).Draw(t, "pods")
	return o
}

// step makes one change of the cluster and tells the store.
func (c *cluster) step(t *rapid.T, store *kube.Store) {
	service, slice := rapid.SampledFrom([]string{"s1", "s2", "s3"}), rapid.SampledFrom([]string{"e1", "e2", "e3", "e4"})
	switch rapid.IntRange(0, 9).Draw(t, "what") {
	case 0, 1, 2:
		o := drawService(t, service.Draw(t, "name"))
		c.services[o.Name] = o
		store.SetService(o)
	case 3:
		name := service.Draw(t, "name")
		delete(c.services, name)
		store.DeleteService(types.NamespacedName{Namespace: "ns", Name: name})
	case 4, 5, 6:
		o := drawSlice(t, slice.Draw(t, "name"))
		c.slices[o.Name] = o
		store.SetSlice(o)
	case 7:
		name := slice.Draw(t, "name")
		delete(c.slices, name)
		store.DeleteSlice(types.NamespacedName{Namespace: "ns", Name: name})
	case 8:
		c.node = drawNode(t)
		store.SetNode(c.node)
	case 9:
		o := &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "r"}}
		o.Spec.CIDRs = []string{rapid.SampledFrom([]string{"10.96.0.0/16", "10.97.0.0/16"}).Draw(t, "range")}
		if delete(c.ranges, "r"); rapid.Bool().Draw(t, "there") {
			c.ranges["r"] = o
			store.SetServiceCIDR(o)
		} else {
			store.DeleteServiceCIDR("r")
		}
	}
}

func TestChangesLeadToWhatTheObjectsSay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tr := kube.Translation{
			NodeName: "here", ExternalIPs: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("10.96.0.0/24")},
			DetectLocal: kube.DetectLocal{Mode: rapid.SampledFrom([]kube.Mode{kube.NodeCIDR, kube.ClusterCIDR}).Draw(t, "mode")},
		}
		c := &cluster{map[string]*corev1.Service{}, map[string]*discoveryv1.EndpointSlice{}, nil, map[string]*networkingv1.ServiceCIDR{}}
		store := c.from(t, tr)
		last, _ := flush(t, store)
		for range rapid.IntRange(1, 12).Draw(t, "flushes") {
			for range rapid.IntRange(1, 3).Draw(t, "changes") {
				c.step(t, store)
			}
			next, _ := flush(t, store)
			anew := c.from(t, tr)
			want, _ := flush(t, anew)
			if got, want := dump(next)+dumpFacts(store), dump(want)+dumpFacts(anew); got != want {
				t.Fatalf("after changes:\n%s\nfrom the objects:\n%s", got, want)
			}
			for svc := range next.All() {
				if old := last.Service(svc.ID); old != nil && old != svc && old.Equal(svc) {
					t.Fatalf("%s did not change, but its pointer did", svc.ID)
				}
			}
			if again, problems := flush(t, store); again != next || problems != nil {
				t.Fatalf("nothing changed, but the snapshot did, or there are problems: %v", problems)
			}
			last = next
		}
	})
}

func flush(t rapid.TB, store *kube.Store) (*lb.Snapshot, []kube.Problem) {
	snap, problems, err := store.Flush()
	if err != nil {
		t.Fatal(err)
	}
	for svc := range snap.All() {
		if err := svc.Check(); err != nil {
			t.Fatal(err)
		}
	}
	return snap, problems
}

func TestAStoreRefusesWhatCannotBe(t *testing.T) {
	for want, tr := range map[string]kube.Translation{
		`default scheduler: unknown scheduler "x": write one of rr, wrr, lc, wlc, sed, nq, sh, dh, mh`:                     {Scheduler: "x"},
		`node port addresses: "primary" appears twice: write it once`:                                                      {NodePortAddresses: []string{"primary", "primary"}},
		`node port addresses: "eth0": write primary, localhost, all or a network such as 192.0.2.0/24`:                     {NodePortAddresses: []string{"eth0"}},
		`detectLocalMode "Magic": write ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix`:                     {DetectLocal: kube.DetectLocal{Mode: "Magic"}},
		`detectLocalMode BridgeInterface with device "": write the name of one, of 1 to 15 characters`:                     {DetectLocal: kube.DetectLocal{Mode: "BridgeInterface"}},
		`detectLocalMode InterfaceNamePrefix with device "0123456789abcdef": write the name of one, of 1 to 15 characters`: {DetectLocal: kube.DetectLocal{Mode: "InterfaceNamePrefix", Device: "0123456789abcdef"}},
		"name of this machine's Node is empty: write --hostname-override":                                                  {NodeName: " "},
	} {
		if _, err := kube.NewStore(tr); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestTheNameOfTheNode(t *testing.T) {
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for override, want := range map[string]string{" Here\n": "here", "": strings.ToLower(name)} {
		store, err := kube.NewStore(kube.Translation{NodeName: override})
		if err != nil {
			t.Fatal(err)
		}
		node := aNode("192.0.2.9")
		node.Name = want
		store.SetNode(node)
		if snap, _ := flush(t, store); len(snap.Node().NodePorts) != 1 {
			t.Errorf("name %q: Node %q is not taken as this machine's", override, want)
		}
	}
}

// many fills a store with services of so many endpoints, a hundred in a slice. change
// gives a service's first slice with n of its endpoints.
func many(b *testing.B, services, endpoints int) (store *kube.Store, change func(i, n int) *discoveryv1.EndpointSlice) {
	store, err := kube.NewStore(kube.Translation{NodeName: "here"})
	if err != nil {
		b.Fatal(err)
	}
	slice := func(i, first, n int) *discoveryv1.EndpointSlice {
		o := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{
			Namespace: "ns", Name: fmt.Sprintf("s%d-%d", i, first), Labels: map[string]string{discoveryv1.LabelServiceName: fmt.Sprintf("s%d", i)},
		}}
		o.AddressType = discoveryv1.AddressTypeIPv4
		o.Ports = []discoveryv1.EndpointPort{{Name: ptr(""), Port: ptr(int32(8080))}}
		for e := first; e < first+n; e++ {
			addr := netip.AddrFrom4([4]byte{byte(10 + e>>8), byte(i >> 8), byte(i), byte(e)})
			o.Endpoints = append(o.Endpoints, discoveryv1.Endpoint{Addresses: []string{addr.String()}, NodeName: ptr("there")})
		}
		return o
	}
	for i := range services {
		o := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: fmt.Sprintf("s%d", i)}}
		o.Spec.ClusterIP = netip.AddrFrom4([4]byte{172, 16, byte(i >> 8), byte(i)}).String()
		o.Spec.Ports = []corev1.ServicePort{{Port: 80, NodePort: int32(20000 + i)}}
		store.SetService(o)
		for first := 0; first < endpoints; first += 100 {
			store.SetSlice(slice(i, first, min(100, endpoints-first)))
		}
	}
	return store, func(i, n int) *discoveryv1.EndpointSlice { return slice(i, 0, n) }
}

func BenchmarkOneEndpointChanges(b *testing.B) {
	for _, c := range []struct{ services, endpoints int }{{100, 10}, {10000, 10}, {10, 1000}} {
		b.Run(fmt.Sprintf("services=%d/endpoints=%d", c.services, c.endpoints), func(b *testing.B) {
			store, change := many(b, c.services, c.endpoints)
			last, _, _ := store.Flush()
			n := 0
			for b.Loop() {
				n++
				store.SetSlice(change(rand.IntN(c.services), 5+n%5))
				next, _, err := store.Flush()
				if err != nil {
					b.Fatal(err)
				}
				_ = last.Compare(next)
				last = next
			}
		})
	}
}

func BenchmarkFirstSnapshot(b *testing.B) {
	for b.Loop() {
		store, _ := many(b, 10000, 10)
		if _, _, err := store.Flush(); err != nil {
			b.Fatal(err)
		}
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		b.ReportMetric(float64(m.HeapAlloc)/(1<<20), "MiB-kept")
		runtime.KeepAlive(store)
	}
}
