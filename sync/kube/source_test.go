// SPDX-License-Identifier: Apache-2.0

package kube_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"

	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/sync/kube"
)

// follower is a source at work on an API server. It holds what was delivered and
// logged.
type follower struct {
	t   *testing.T
	api *apiServer
	src *kube.Source
	ctx context.Context // ends before the test runs into its timeout

	mu      sync.Mutex
	changed chan struct{}  // closed and made anew with each change of what follows
	snaps   []*lb.Snapshot // each once
	last    kube.Delivery
	// changes and triggers are of all deliveries together.
	services, slices int
	triggers         []kube.Trigger
	lines            []string
}

// follow starts a source, which ends with the test. Options but those that each
// source must have are set by f.
func follow(t *testing.T, api *apiServer, set func(*kube.Options)) *follower {
	t.Helper()
	f := &follower{t: t, api: api, changed: make(chan struct{})}
	o := kube.Options{
		Translation: kube.Translation{NodeName: "here"},
		Config:      api.config(),
		Deliver:     f.take,
		Log:         slog.New(slog.NewTextHandler(f, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if set != nil {
		set(&o)
	}
	src, err := kube.New(o)
	if err != nil {
		t.Fatal(err)
	}
	f.src = src
	ctx, stop := context.WithCancel(t.Context())
	limit, free := context.WithTimeout(t.Context(), time.Minute)
	f.ctx = limit
	ended := make(chan error, 1)
	go func() { ended <- src.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("run: %v, want nil", err)
		}
		free()
	})
	return f
}

func (f *follower) take(d kube.Delivery) {
	f.update(func() {
		if d.Snapshot != f.last.Snapshot {
			f.snaps = append(f.snaps, d.Snapshot)
		}
		f.last = d
		f.services, f.slices, f.triggers = f.services+d.Services, f.slices+d.Slices, append(f.triggers, d.Triggers...)
	})
}

func (f *follower) update(g func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	g()
	close(f.changed)
	f.changed = make(chan struct{})
}

// Write takes a line of the log.
func (f *follower) Write(p []byte) (int, error) {
	f.update(func() { f.lines = append(f.lines, string(p)) })
	return len(p), nil
}

// wait waits for cond, which is called with the lock held.
func (f *follower) wait(what string, cond func() bool) {
	f.t.Helper()
	for {
		f.mu.Lock()
		ok, changed := cond(), f.changed
		f.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-f.ctx.Done():
			f.t.Fatalf("never: %s; delivered last:\n%s\nlog:\n%s", what, f.state(), strings.Join(f.lines, ""))
		}
	}
}

func (f *follower) state() string {
	if len(f.snaps) == 0 {
		return "nothing"
	}
	return dump(f.snaps[len(f.snaps)-1])
}

// want waits until this is the last delivery.
func (f *follower) want(state string) {
	f.t.Helper()
	f.wait(state, func() bool { return f.state() == state })
}

func (f *follower) logged(words string) (n int) {
	for _, l := range f.lines {
		if strings.Contains(l, words) {
			n++
		}
	}
	return n
}

// asked waits until the API server was asked so.
func (f *follower) asked(what string, so func(request) bool) {
	f.t.Helper()
	if !f.api.until(f.ctx, func() bool { return slices.ContainsFunc(f.api.requests, so) }) {
		f.t.Fatalf("never asked: %s", what)
	}
}

// waitsFor waits until the source has all else and waits for this.
func (f *follower) waitsFor(resource string) {
	f.t.Helper()
	line := "services=true endpointslices=true servicecidrs=true nodes=true"
	line = strings.Replace(line, resource+"=true", resource+"=false", 1)
	f.wait("waiting for "+resource, func() bool { return f.logged(line) > 0 || len(f.snaps) > 0 })
}

func aService(name, ip string) *corev1.Service {
	o := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: "uid"}}
	o.Spec.ClusterIP = ip
	o.Spec.Ports = []corev1.ServicePort{{Port: 80}}
	return o
}

func aSlice(of string, ips ...string) *discoveryv1.EndpointSlice {
	o := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: of + "-1", Labels: map[string]string{discoveryv1.LabelServiceName: of}}}
	o.AddressType = discoveryv1.AddressTypeIPv4
	o.Ports = []discoveryv1.EndpointPort{{Name: ptr(""), Port: ptr(int32(8080))}}
	for _, ip := range ips {
		o.Endpoints = append(o.Endpoints, discoveryv1.Endpoint{Addresses: []string{ip}})
	}
	return o
}

func aNode(ip string) *corev1.Node {
	o := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "here"}}
	o.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: ip}}
	return o
}

func aRange(cidr string) *networkingv1.ServiceCIDR {
	o := &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "kubernetes"}}
	o.Spec.CIDRs = []string{cidr}
	return o
}

// small fills an API server.
func small(t *testing.T) *apiServer {
	api := startAPIServer(t)
	api.put(aService("web", "10.96.0.1"), aSlice("web", "10.1.0.1"), aNode("192.0.2.9"), aRange("10.96.0.0/16"))
	return api
}

const (
	smallNode  = "node ports [192.0.2.9/32]\nservice ranges [10.96.0.0/16]\n"
	smallWeb   = "ns/web/TCP/ipv4 rr\n  10.96.0.1:80/TCP cluster, masquerade never\n  -> 10.1.0.1:8080 weight 1: cluster\n"
	smallState = smallNode + smallWeb
)

var resources = []string{"services", "endpointslices", "nodes", "servicecidrs"}

func TestASourceFollowsTheAPIServer(t *testing.T) {
	for _, streams := range []bool{false, true} {
		t.Run(map[bool]string{false: "lists", true: "streamed lists"}[streams], func(t *testing.T) {
			api := small(t)
			api.streams = streams
			f := follow(t, api, nil)
			f.want(smallState)
			<-f.src.Ready()
			if len(f.snaps) != 1 {
				t.Errorf("%d deliveries of the first state, want 1", len(f.snaps))
			}
			web := f.snaps[0].Service(lb.ServiceID{Name: "ns/web/TCP", Family: lb.IPv4})

			api.put(aService("other", "10.96.0.2"))
			f.want(smallNode + "ns/other/TCP/ipv4 rr\n  10.96.0.2:80/TCP cluster, masquerade never\n" + smallWeb)
			if f.snaps[len(f.snaps)-1].Service(web.ID) != web {
				t.Error("a service that did not change has another pointer")
			}
			api.put(aSlice("other", "10.1.0.2"))
			api.remove("services/ns/web")
			f.want(smallNode + "ns/other/TCP/ipv4 rr\n  10.96.0.2:80/TCP cluster, masquerade never\n  -> 10.1.0.2:8080 weight 1: cluster\n")

			// What says nothing new is not delivered: the next delivery is the marker's.
			n := len(f.snaps)
			api.put(aNode("192.0.2.9"))
			api.put(aSlice("web", "10.1.0.3"))
			api.remove("services/ns/other")
			f.wait("the end of the last service", func() bool { return f.snaps[len(f.snaps)-1].Len() == 0 })
			if len(f.snaps) != n+1 {
				t.Errorf("%d deliveries, want 1", len(f.snaps)-n)
			}
			api.put(aRange("10.97.0.0/16"))
			f.want("node ports [192.0.2.9/32]\nservice ranges [10.97.0.0/16]\nno services\n")
			api.remove("servicecidrs/kubernetes")
			f.want("node ports [192.0.2.9/32]\nno services\n")
		})
	}
}

func TestTheAPIServerIsAskedForNoMoreThanIsServed(t *testing.T) {
	want := map[string][2]string{ // labels, fields
		"services":       {"!service.kubernetes.io/service-proxy-name", "spec.clusterIP!=None"},
		"endpointslices": {"!service.kubernetes.io/headless,!service.kubernetes.io/service-proxy-name", ""},
		"nodes":          {"", "metadata.name=here"},
		"servicecidrs":   {"", ""},
	}
	check := func(t *testing.T, proxyName string) {
		f := follow(t, small(t), func(o *kube.Options) { o.ProxyName = proxyName })
		for _, resource := range resources {
			for _, watch := range []bool{false, true} {
				f.asked(resource, func(r request) bool { return r.resource == resource && r.watch == watch })
			}
		}
		f.api.mu.Lock()
		defer f.api.mu.Unlock()
		for _, r := range f.api.requests {
			if got := [2]string{r.labels, r.fields}; got != want[r.resource] {
				t.Errorf("%s: asked by labels and fields %q, want %q", r.resource, got, want[r.resource])
			}
			if !strings.HasPrefix(r.accept, "application/vnd.kubernetes.protobuf") || r.agent != "waggle" {
				t.Errorf("%s: accepts %s, agent %s, want protobuf first, and waggle", r.resource, r.accept, r.agent)
			}
		}
	}
	t.Run("all but those of other proxies", func(t *testing.T) { check(t, "") })
	want["services"] = [2]string{"service.kubernetes.io/service-proxy-name=mine", "spec.clusterIP!=None"}
	want["endpointslices"] = [2]string{"!service.kubernetes.io/headless", ""}
	t.Run("those of a proxy", func(t *testing.T) { check(t, "mine") })
}

func TestAnAPIServerThatCannotSelectByClusterIP(t *testing.T) {
	for _, streams := range []bool{false, true} {
		api := small(t)
		api.streams = streams
		api.refuse = func(resource string, r *http.Request) *apierrors.StatusError {
			if resource == "services" && r.URL.Query().Get("fieldSelector") != "" {
				return apierrors.NewBadRequest("field label not supported: spec.clusterIP")
			}
			return nil
		}
		api.put(aService("headless", "None"))
		f := follow(t, api, nil)
		f.want(smallState)
		api.put(aService("headless2", "None"), aSlice("web", "10.1.0.9"))
		f.want(strings.Replace(smallState, "10.1.0.1", "10.1.0.9", 1))
		if n := f.logged("cannot select by these fields"); n != 1 {
			t.Errorf("logged %d times, want once", n)
		}
	}
}

func TestNothingIsDeliveredBeforeAllIsKnown(t *testing.T) {
	for _, held := range resources {
		t.Run(held, func(t *testing.T) {
			api := small(t)
			api.hold[held] = true
			f := follow(t, api, nil)
			f.waitsFor(held)
			if len(f.snaps) != 0 {
				t.Errorf("delivered without %s: %s", held, f.state())
			}
			api.update(func() { api.hold[held] = false })
			f.wait("a delivery", func() bool { return len(f.snaps) > 0 })
			if diff := cmp.Diff(smallState, dump(f.snaps[0])); diff != "" {
				t.Errorf("the first delivery (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAnAPIServerWithoutServiceCIDRs(t *testing.T) {
	for _, code := range []int{http.StatusNotFound, http.StatusForbidden} {
		api := small(t)
		api.refuse = func(resource string, _ *http.Request) *apierrors.StatusError {
			if resource == "servicecidrs" {
				return apierrors.NewGenericServerResponse(code, "list", schema.GroupResource{Resource: resource}, "", "", 0, false)
			}
			return nil
		}
		f := follow(t, api, nil)
		f.want("node ports [192.0.2.9/32]\n" + smallWeb)
	}
}

func TestANodeThatComesLate(t *testing.T) {
	api := startAPIServer(t)
	api.put(aService("web", "10.96.0.1"), aSlice("web", "10.1.0.1"))
	f := follow(t, api, func(o *kube.Options) { o.NodeTimeout = 50 * time.Millisecond })
	f.want(smallWeb)
	f.wait("a line of the log", func() bool { return f.logged("this machine's Node is not known") == 1 })
	api.put(aNode("192.0.2.9"))
	f.want("node ports [192.0.2.9/32]\n" + smallWeb)
	api.put(aNode("192.0.2.10"))
	f.want("node ports [192.0.2.10/32]\n" + smallWeb)
	api.remove("nodes/here")
	api.remove("services/ns/web")
	f.want("node ports [192.0.2.10/32]\nno services\n")
}

func TestTheNodesPodsAreWaitedFor(t *testing.T) {
	api := small(t)
	f := follow(t, api, func(o *kube.Options) { o.DetectLocal.Mode = kube.NodeCIDR })
	f.waitsFor("nodes")
	node := aNode("192.0.2.9")
	node.Spec.PodCIDRs = []string{"10.1.0.0/24"}
	api.put(node)
	f.wait("a delivery", func() bool { return len(f.snaps) > 0 })
	if got := f.snaps[0].Node().Pods; len(got) != 1 {
		t.Errorf("the first delivery has pods %v, want those of the Node", got)
	}
}

func TestAWatchThatCannotGoOn(t *testing.T) {
	api := small(t)
	f := follow(t, api, nil)
	f.want(smallState)
	api.update(func() { api.cut++ }) // goes on
	api.put(aService("other", "10.96.0.2"))
	f.want(smallNode + "ns/other/TCP/ipv4 rr\n  10.96.0.2:80/TCP cluster, masquerade never\n" + smallWeb)

	// What happens between the end of the watches and the next list is only in that.
	api.update(func() { api.hold["services"], api.hold["endpointslices"], api.hold["servicecidrs"] = true, true, true })
	api.remove("services/ns/other")
	api.remove("endpointslices/ns/web-1")
	api.remove("servicecidrs/kubernetes")
	api.put(aService("third", "10.96.0.3"))
	api.compact()
	api.update(func() { clear(api.hold) })
	f.want("node ports [192.0.2.9/32]\nns/third/TCP/ipv4 rr\n  10.96.0.3:80/TCP cluster, masquerade never\n" +
		"ns/web/TCP/ipv4 rr\n  10.96.0.1:80/TCP cluster, masquerade never\n")
}

func TestAnAPIServerThatIsGone(t *testing.T) {
	api := small(t)
	f := follow(t, api, nil)
	f.want(smallState)
	for _, r := range resources {
		f.asked(r, func(q request) bool { return q.resource == r && q.watch })
	}
	api.stop()
	f.wait("a failure of each watch", func() bool { return f.logged("backing off") >= len(resources) })
	api.put(aSlice("web", "10.1.0.7"))
	api.start()
	f.want(strings.Replace(smallState, "10.1.0.1", "10.1.0.7", 1))
	f.wait("a line of the log", func() bool { return f.logged("answers again") > 0 })
	if len(f.snaps) != 2 || f.logged("the API server fails") != 1 || f.logged("answers again") != 1 {
		t.Errorf("delivered %d states, want 2; log, which should say once that it fails and once that it answers:\n%s", len(f.snaps), strings.Join(f.lines, ""))
	}
}

// A load balancer without servers takes connections and closes them.
func TestAnAPIServerBehindWhatHangsUp(t *testing.T) {
	api := small(t)
	f := follow(t, api, nil)
	f.want(smallState)
	api.stop()
	l, err := net.Listen("tcp", api.addr)
	if err != nil {
		t.Fatal(err)
	}
	taken := 0
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
			f.update(func() { taken++ })
		}
	}()
	f.wait("a failure, and more of them", func() bool { return f.logged("the API server fails") > 0 && taken > 3*len(resources) })
	_ = l.Close()
	api.put(aSlice("web", "10.1.0.7"))
	api.start()
	f.want(strings.Replace(smallState, "10.1.0.1", "10.1.0.7", 1))
	f.wait("a line of the log", func() bool { return f.logged("answers again") > 0 })
	if f.logged("the API server fails") != 1 {
		t.Errorf("the log does not say once that it fails:\n%s", strings.Join(f.lines, ""))
	}
}

func TestAnAPIServerThatIsNotThereYet(t *testing.T) {
	api := small(t)
	api.stop()
	f := follow(t, api, nil)
	f.wait("a line of the log", func() bool { return f.logged("the API server fails") > 0 })
	api.start()
	f.want(smallState)
}

func TestProblemsAreEvents(t *testing.T) {
	api := small(t)
	web := aService("web", "10.96.0.1")
	web.Spec.ExternalIPs = []string{"203.0.113.1"}
	f := follow(t, api, func(o *kube.Options) { o.ExternalIPs = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")} })
	f.want(smallState)
	api.put(web)
	wantEvents := func(n int, reason, note string) {
		t.Helper()
		if !api.until(f.ctx, func() bool { return len(api.events) == n }) {
			t.Fatalf("%d Events, want %d", len(api.events), n)
		}
		e := api.events[n-1]
		if e.Reason != reason || !strings.Contains(e.Note, note) || e.ReportingController != "waggle" || e.ReportingInstance != "here" ||
			e.Type != "Warning" || e.Action == "" || e.EventTime.IsZero() || e.Namespace != "ns" {
			t.Errorf("Event %v, want %s about %s", e, reason, note)
		}
		if r := e.Regarding; r.Kind != "Service" || r.Name != "web" || r.Namespace != "ns" || r.UID != web.UID || r.APIVersion != "v1" {
			t.Errorf("Event about %v, want Service ns/web", r)
		}
	}
	wantEvents(1, kube.ReasonExternalIPNotAllowed, "203.0.113.1")

	// Once only while it stays, and what cannot be sent holds nothing up.
	web.Labels = map[string]string{"a": "b"}
	api.update(func() {
		api.refuse = func(resource string, _ *http.Request) *apierrors.StatusError {
			if resource == "events" {
				return apierrors.NewForbidden(schema.GroupResource{Resource: resource}, "", nil)
			}
			return nil
		}
	})
	web.Annotations = map[string]string{kube.WeightAnnotation: "x", kube.SchedulerAnnotation: "x"}
	posts := func() (n int) {
		for _, r := range api.requests {
			if r.resource == "events" {
				n++
			}
		}
		return n
	}
	api.put(web)
	if !api.until(f.ctx, func() bool { return posts() == 2 }) {
		t.Fatal("no Event was tried")
	}
	api.update(func() { api.refuse = nil })
	web.Annotations[kube.SchedulerAnnotation] = "y"
	api.put(web)
	wantEvents(2, kube.ReasonInvalidAnnotation, `"y"`)
	if posts() != 3 {
		t.Errorf("%d posts, want 3: each problem once", posts())
	}

	// Another node sees the same: the API server keeps one.
	follow(t, api, func(o *kube.Options) { o.ExternalIPs = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")} })
	if !api.until(f.ctx, func() bool { return len(api.events)+api.again == 4 }) {
		t.Fatal("the other node sent nothing")
	}
	if len(api.events) != 2 {
		t.Errorf("%d Events, want 2", len(api.events))
	}
}

func TestWhatHappensAgainIsAnEventAgain(t *testing.T) {
	api := small(t)
	f := follow(t, api, nil)
	for n, e := range []kube.Event{
		{Object: f.src.Node(), Normal: true, Action: "StartWaggle", Reason: "Starting", Text: "again"},
		{Object: f.src.Node(), Normal: true, Action: "StartWaggle", Reason: "Starting", Text: "again"},
		{Object: f.src.Node(), Action: "StartWaggle", Reason: "Failed", Text: strings.Repeat("x", 2000)},
	} {
		f.src.Tell(e)
		if !api.until(f.ctx, func() bool { return len(api.events) == n+1 }) {
			t.Fatalf("%d Events, want %d", len(api.events), n+1)
		}
		got := api.events[n]
		if got.Reason != e.Reason || got.Action != e.Action || got.Type != map[bool]string{true: "Normal", false: "Warning"}[e.Normal] || got.Note != e.Text[:min(len(e.Text), 1024)] || got.Namespace != "default" {
			t.Errorf("Event %v, want %v", got, e)
		}
		if r := got.Regarding; r.APIVersion != "v1" || r.Kind != "Node" || r.Name != "here" || r.UID != "here" || r.Namespace != "" {
			t.Errorf("Event about %v, want Node here", r)
		}
	}
}

// TestADataplanesWordIsAboutTheService of which the snapshot has a port; of one that
// is gone nothing is said.
func TestADataplanesWordIsAboutTheService(t *testing.T) {
	api := small(t)
	f := follow(t, api, nil)
	f.want(smallState)
	f.src.TellService(lb.ServiceID{Name: "ns/gone:http", Family: lb.IPv4}, "DataplaneDiffers", "nothing")
	f.src.TellService(lb.ServiceID{Name: "ns/web:http", Family: lb.IPv4}, "DataplaneDiffers", "affinity is each frontend's own")
	if !api.until(f.ctx, func() bool { return len(api.events) == 1 }) {
		t.Fatalf("%d Events, want 1", len(api.events))
	}
	e := api.events[0]
	if r := e.Regarding; r.Kind != "Service" || r.Namespace != "ns" || r.Name != "web" || r.UID == "" || e.Reason != "DataplaneDiffers" || e.Note != "affinity is each frontend's own" {
		t.Errorf("Event %v", e)
	}
}

// requests takes down what it is told.
type requests struct {
	mu   sync.Mutex
	said map[string]bool
}

func (r *requests) say(what ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.said[strings.TrimSpace(fmt.Sprintln(what...))] = true
}

func (r *requests) has(what string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.said[what]
}

func (r *requests) Done(code, method, host string)          { r.say("done", code, method, host) }
func (r *requests) Retried(code, verb, host string)         { r.say("retried", verb, host) }
func (r *requests) Took(verb, host string, _ time.Duration) { r.say("took", verb, host) }
func (r *requests) Waited(verb, host string, _ time.Duration) {
	r.say("waited", verb, host)
}
func (r *requests) Sent(verb, host string, n float64)     { r.say("sent", verb, host, n > 0) }
func (r *requests) Received(verb, host string, n float64) { r.say("received", verb, host, n > 0) }

// observed is of all tests: client-go takes one in a process, and before it is at work.
var observed = &requests{said: make(map[string]bool)}

func init() { kube.ObserveRequests(observed) }

func TestRequestsAreObserved(t *testing.T) {
	r := observed
	api := small(t)
	f := follow(t, api, nil)
	f.want(smallState)
	f.src.Tell(kube.Event{Object: f.src.Node(), Action: "a", Reason: "r"})
	for _, want := range []string{
		"done 200 GET " + api.addr, "done 201 POST " + api.addr, "took GET " + api.addr, "took POST " + api.addr,
		"waited GET " + api.addr, "sent POST " + api.addr + " true", "received GET " + api.addr + " true",
	} {
		for !r.has(want) {
			select {
			case <-f.ctx.Done():
				t.Fatalf("nobody was told: %s; but %v", want, r.said)
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
}

func TestASourceNeedsAllItsParts(t *testing.T) {
	o := kube.Options{Config: &rest.Config{Host: "https://192.0.2.1"}, Deliver: func(kube.Delivery) {}, Log: slog.New(slog.DiscardHandler)}
	src, err := kube.New(o)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := src.String(), "API server https://192.0.2.1"; got != want {
		t.Errorf("named %q, want %q", got, want)
	}
	without := []func(o *kube.Options){
		func(o *kube.Options) { o.Config = nil }, func(o *kube.Options) { o.Deliver = nil },
		func(o *kube.Options) { o.Log = nil }, func(o *kube.Options) { o.Scheduler = "fastest" },
	}
	for i, take := range without {
		less := o
		take(&less)
		if _, err := kube.New(less); err == nil {
			t.Errorf("%d: no error", i)
		}
	}
}
