// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package kube_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/waggle-lb/waggle/internal/kubetest"
)

// healthLines are about what daemons answer by HTTP: to probes, to load balancers, to
// whoever looks at them.
var healthLines = []line{
	{name: "should check kube-proxy urls", run: func(e *e2e) {
		for _, n := range e.nodes {
			probe := netip.AddrPortFrom(n.addr(e.v6), 10256)
			e.says(e.outside, probe, "/healthz", http.StatusOK, `"lastUpdated":"`, `"nodeEligible":true`, `"status":{"IPv4":{"`, `"IPv6":{"`)
			e.says(e.outside, probe, "/livez", http.StatusOK, `"healthy":true`)
			for path, body := range map[string]string{"/proxyMode": *dataplaneWord, "/healthz": "ok"} {
				e.says(n, metricsAt, path, http.StatusOK, body)
			}
			e.says(n, metricsAt, "/configz", http.StatusOK, `{"kubeproxy.config.k8s.io":{"kind":"KubeProxyConfiguration",`, `"mode":"ebpf"`)
			e.says(n, metricsAt, "/debug/pprof/", http.StatusNotFound)
		}
	}},
	{name: "health checks are asked for where node ports are", run: (*e2e).checksAreAtNodes},
	{name: "health checks go with the port, and with the Service", run: (*e2e).checksGo},
	{name: "a health check whose port is taken", run: (*e2e).checkIsTaken},
	{name: "a Node that the autoscaler will delete is not healthy, and alive", alone: true, run: (*e2e).doomedNode},
	{name: "health stays while the API server is away", alone: true, run: (*e2e).healthAlone},
	{name: "latencies are of changes that are in the kernel", alone: true, families: []string{"ipv4"}, run: (*e2e).latencies},
	{name: "a daemon whose addresses are taken", alone: true, families: []string{"ipv4"}, run: (*e2e).addressesAreTaken},
}

// metricsAt is where each daemon serves metrics, to its own machine.
var metricsAt = netip.MustParseAddrPort("127.0.0.1:10249")

// get asks with a connection of its own.
func get(c client, at netip.AddrPort, path string) (code int, body string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), oneTry)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+at.String()+path, nil)
	if err != nil {
		return 0, "", err
	}
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		return c.DialWith(ctx, &net.Dialer{}, network, addr)
	}}
	res, err := transport.RoundTrip(req)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return res.StatusCode, string(b), err
}

// says waits until a client is answered so, with all of these words.
func (e *e2e) says(c client, at netip.AddrPort, path string, code int, words ...string) {
	e.eventually(fmt.Sprintf("%s%s says %d, %q", at, path, code, words), func() error {
		got, body, err := get(c, at, path)
		if err == nil && got != code {
			err = fmt.Errorf("it says %d, %s", got, body)
		}
		for _, w := range words {
			if err == nil && !strings.Contains(body, w) {
				err = fmt.Errorf("it says %s", body)
			}
		}
		return err
	})
}

// healthPort is where load balancers ask a node about the Service.
func (s *service) healthPort(n *node) netip.AddrPort {
	return netip.AddrPortFrom(n.addr(s.e.v6), uint16(s.object.Int("spec", "healthCheckNodePort")))
}

// checked waits until a node tells load balancers that it has so many endpoints.
func (e *e2e) checked(s *service, n *node, local int) {
	code := http.StatusServiceUnavailable
	if local > 0 {
		code = http.StatusOK
	}
	e.says(e.outside, s.healthPort(n), "/healthz", code, fmt.Sprintf(`"namespace": %q`, e.ns), fmt.Sprintf(`"name": %q`, s.name),
		fmt.Sprintf(`"localEndpoints": %d`, local), `"serviceProxyHealthy": true`)
}

// unchecked waits until connections are refused.
func (e *e2e) unchecked(at netip.AddrPort) {
	e.eventually(fmt.Sprintf("nobody listens at %s", at), func() error {
		if _, _, err := get(e.outside, at, "/"); !errors.Is(err, syscall.ECONNREFUSED) {
			return fmt.Errorf("it answers, or there is another error: %w", err)
		}
		return nil
	})
}

func (e *e2e) checksAreAtNodes() {
	s := e.service("asked", localBalanced).backends(e.pods()[0], e.pods()[1]).refresh()
	n := e.nodes[0]
	e.checked(s, n, 2)
	e.unchecked(netip.AddrPortFrom(podAddr(n.number, 1, e.v6), s.healthPort(n).Port())) // an address, but not where node ports are
	e.checked(s, e.nodes[2], 0)
	s.endpoints(e.endpoint(e.pods()[0], kubetest.Ready), e.endpoint(e.pods()[1], kubetest.NotReady))
	e.checked(s, n, 1)
	s.endpoints(e.endpoint(e.pods()[3], kubetest.Ready))
	e.checked(s, n, 0)
	e.checked(s, e.nodes[1], 1)
}

func (e *e2e) checksGo() {
	s := e.service("goes", localBalanced).backends(e.pods()[0]).refresh()
	n := e.nodes[0]
	e.checked(s, n, 1)
	old := s.healthPort(n)
	s.apply("type: ClusterIP")
	e.unchecked(old)
	s.apply(localBalanced).refresh()
	e.checked(s, n, 1)
	at := s.healthPort(n)
	s.delete()
	e.unchecked(at)
}

// event waits for an Event of a reason about an object.
func (e *e2e) event(namespace, reason, about string, words ...string) kubetest.Object {
	return e.api.Await(e.t, "events.k8s.io/v1/Event", namespace, reason+" of "+about, func(o kubetest.Object) bool {
		for _, w := range words {
			if !strings.Contains(o.Text("note"), w) {
				return false
			}
		}
		return o.Text("reason") == reason && o.Text("regarding", "name") == about
	})
}

func (e *e2e) checkIsTaken() {
	s := e.service("taken", localBalanced).backends(e.pods()[0]).refresh()
	n := e.nodes[0]
	e.checked(s, n, 1)
	at := s.healthPort(n)
	s.apply("type: ClusterIP")
	e.unchecked(at)
	other, err := n.Listen(e.t.Context(), "tcp", at.String())
	e.try(err)
	defer other.Close()
	s.apply(fmt.Sprintf(localBalanced+", healthCheckNodePort: %d", at.Port()))
	o := e.event(e.ns, "FailedToStartServiceHealthcheck", s.name, n.name, at.String())
	if o.Text("type") != "Warning" || o.Text("action") != "Listen" || o.Text("regarding", "uid") != s.refresh().object.Text("metadata", "uid") {
		e.fail("the Event is %v", o)
	}
	e.checked(s, e.nodes[1], 0)
	e.try(other.Close())
	e.checked(s, n, 1)
}

// doomedNode marks the second node as the cluster autoscaler does.
func (e *e2e) doomedNode() {
	n := e.nodes[1]
	s := e.service("doomed", localBalanced).backends(e.pods()[3]).refresh()
	at := netip.AddrPortFrom(n.addr(e.v6), 10256)
	e.says(e.outside, at, "/healthz", http.StatusOK)
	e.api.Patch(e.t, "Node", "", n.name, "spec: {taints: [{key: ToBeDeletedByClusterAutoscaler, value: '1', effect: NoSchedule}]}")
	defer e.api.Patch(e.t, "Node", "", n.name, "spec: {taints: null}")
	e.says(e.outside, at, "/healthz", http.StatusServiceUnavailable, `"nodeEligible":false`, `"healthy":true`)
	e.says(e.outside, at, "/livez", http.StatusOK)
	e.checked(s, n, 1) // load balancers of Local go by endpoints
	e.says(e.outside, netip.AddrPortFrom(e.nodes[0].addr(e.v6), 10256), "/healthz", http.StatusOK)
	e.api.Patch(e.t, "Node", "", n.name, "spec: {taints: null}")
	e.says(e.outside, at, "/healthz", http.StatusOK, `"nodeEligible":true`)
}

// healthAlone parts the first node from the API server.
func (e *e2e) healthAlone() {
	e.patience = max(e.patience, retries)
	n := e.nodes[0]
	s := e.service("alone", localBalanced).backends(e.pods()[0]).refresh()
	e.checked(s, n, 1)
	seen := len(n.logged())
	n.cut()
	n.says("the API server fails", seen)
	s.endpoints(e.endpoint(e.pods()[3], kubetest.Ready))
	e.checked(s, e.nodes[1], 1)
	at := netip.AddrPortFrom(n.addr(e.v6), 10256)
	for range 3 { // it goes on
		e.says(e.outside, at, "/healthz", http.StatusOK, `"healthy":true`)
		e.says(e.outside, at, "/livez", http.StatusOK)
		e.checked(s, n, 1)
		time.Sleep(100 * time.Millisecond)
	}
	n.reconnect()
	e.checked(s, n, 0)
	e.says(e.outside, at, "/healthz", http.StatusOK)
}

// metric is the sum of a node's series that begin so.
func (e *e2e) metric(n *node, series string) (sum float64) {
	code, body, err := get(n, metricsAt, "/metrics?backends=false")
	e.try(err)
	found := false
	for l := range strings.Lines(body) {
		if !strings.HasPrefix(l, series) {
			continue
		}
		found = true
		v, err := strconv.ParseFloat(strings.TrimSpace(l[strings.LastIndex(l, " "):]), 64)
		e.try(err)
		sum += v
	}
	if code != http.StatusOK || !found {
		e.fail("status %d, and no %s in %s", code, series, body)
	}
	return sum
}

// latencies makes changes of slices, of which some were triggered.
func (e *e2e) latencies() {
	const changes = "kubeproxy_sync_proxy_rules_endpoint_changes_"
	n := e.nodes[2]
	count := func() [2]float64 {
		return [2]float64{e.metric(n, `kubeproxy_network_programming_duration_seconds_count{ip_family="IPv4"}`), e.metric(n, changes+"total")}
	}
	// Slices of lines before are gone once this one is there: a watch has an order.
	before := count()
	s := e.service("timed", "").backends(e.pods()[0])
	e.eventually("a slice comes", func() error {
		if now := count(); now[0] != before[0]+1 {
			return fmt.Errorf("%v latencies, %v before", now[0], before[0])
		}
		return nil
	})
	before = count()
	// want waits until so many changes are in the kernel, and compares how many latencies there are.
	want := func(what string, seen, latencies float64) {
		e.eventually(what, func() error {
			now, pending := count(), e.metric(n, changes+"pending")
			if now[1]-before[1] < seen || pending != 0 {
				return fmt.Errorf("%v changes, %v of them not applied", now[1]-before[1], pending)
			}
			return nil
		})
		if now := count(); now[0]-before[0] != latencies || now[1]-before[1] != seen {
			e.fail("%s: %v latencies of %v changes, want %v of %v", what, now[0]-before[0], now[1]-before[1], latencies, seen)
		}
	}
	s.endpoints(s.ready(e.pods()[0], e.pods()[3])...)
	want("it changes", 1, 1)
	slice := func(text string) { e.api.Patch(e.t, "EndpointSlice", e.ns, "timed-ipv4-0", text) }
	slice("metadata: {labels: {a: b}}")
	want("something else of it changes", 2, 1)
	slice(`metadata: {annotations: {"endpoints.kubernetes.io/last-change-trigger-time": "2020-01-01T00:00:00Z"}}`)
	want("it was triggered long ago", 3, 1)
	s.endpoints()
	want("it goes", 4, 1)
	s.endpoints(s.ready(e.pods()[3])...)
	want("it comes again", 5, 2)
	if wrote := e.metric(n, `kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family="IPv6"}`); wrote < 6 {
		e.fail("%v writes", wrote)
	}
	queued, synced := e.metric(n, `kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds{ip_family="IPv4"}`), e.metric(n, `kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family="IPv4"}`)
	if now := float64(time.Now().Unix()); queued > synced || synced > now+1 || queued < now-3600 {
		e.fail("queued at %v, written at %v, now %v", queued, synced, now)
	}
	e.metric(n, `rest_client_requests_total{code="200",host="`+e.api.Addr+`",method="GET"}`)
	e.metric(n, `kubernetes_build_info{`)

	// a Service whose endpoints are elsewhere
	e.service("elsewhere", internalLocal).backends(e.pods()[0])
	e.eventually("services without local endpoints", func() error {
		if got := e.metric(n, `kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family="IPv4",traffic_policy="internal"}`); got != 2 {
			return fmt.Errorf("%v service ports", got)
		}
		return nil
	})
}

// addressesAreTaken starts the third node's daemon where others have its addresses.
func (e *e2e) addressesAreTaken() {
	n := e.nodes[2]
	e.event("default", "Starting", n.name)
	n.kill()
	probe := netip.AddrPortFrom(n.addr(e.v6), 10256)
	var others []net.Listener
	for _, at := range []string{"0.0.0.0:10256", metricsAt.String()} {
		l, err := n.Listen(e.t.Context(), "tcp", at)
		e.try(err)
		defer l.Close()
		others = append(others, l)
	}
	n.launch() // and serves
	for _, reason := range []string{"FailedToStartProxierHealthcheck", "FailedToStartMetricServer"} {
		if o := e.event("default", reason, n.name, "address already in use"); o.Text("type") != "Warning" || o.Text("regarding", "kind") != "Node" {
			e.fail("the Event is %v", o)
		}
	}
	for _, l := range others {
		e.try(l.Close())
	}
	e.says(e.outside, probe, "/healthz", http.StatusOK)
	e.says(n, metricsAt, "/healthz", http.StatusOK, "ok")
}
