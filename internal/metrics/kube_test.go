// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/waggle-lb/waggle/sync/control"
)

// newKube has seen one of everything.
func newKube(p *control.Progress) *Kube {
	k := NewKube(KubeOptions{
		Families: []string{"IPv4", "IPv6"}, Progress: func() control.Progress { return *p },
		Build: Build{Version: "v0.12.3-4-g0123abc", Revision: "0123abc", Go: "go1.26.0", Modified: true},
	})
	k.Wrote(3 * time.Millisecond)
	k.Programmed("IPv4", 400*time.Millisecond)
	k.Programmed("IPv4", 62*time.Second)
	k.Programmed("IPv4", time.Hour)
	k.Changed(3, 5)
	k.Applied(1, 2)
	k.SetNoLocal("IPv6", 2, 7)
	for _, code := range []int{200, 503, 503} {
		k.Answered("healthz", code)
	}
	k.Answered("livez", 200)
	const host = "192.0.2.1:6443"
	k.Done("200", "GET", host)
	k.Retried("429", "GET", host)
	k.Took("GET", host, 20*time.Millisecond)
	k.Waited("POST", host, time.Second)
	k.Sent("POST", host, 300)
	k.Received("GET", host, 1<<20)
	return k
}

func TestWhatKubeProxyMeasures(t *testing.T) {
	p := control.Progress{Queued: time.UnixMilli(1_700_000_002_000), Synced: time.UnixMilli(1_700_000_001_000)}
	k := newKube(&p)
	golden(t, "testdata/kube.txt", gathered(t, k))
	golden(t, "testdata/slis.txt", gathered(t, slis{k}))
	text := gathered(t, k)
	for _, d := range kubeDefinitions() {
		if !strings.Contains(text, "# TYPE "+d.name+" ") {
			t.Errorf("%s is defined, and not sent", d.name)
		}
	}
	p = control.Progress{}
	text = gathered(t, k)
	if strings.Contains(text, synced.name) || !strings.Contains(text, queued.name+`{ip_family="IPv4"} 1.`) {
		t.Errorf("before the first state is written:\n%s", text)
	}
}

// clusterloader2 and SLOs of Kubernetes go by these.
func TestTheBucketsAreKubeProxys(t *testing.T) {
	if n := len(programmingBuckets); n != 80 || programmingBuckets[0] != 0.25 || programmingBuckets[60] != 59 || programmingBuckets[72] != 115 || programmingBuckets[79] != 300 {
		t.Errorf("%d buckets of network programming: %v", n, programmingBuckets)
	}
	if n := len(syncBuckets); n != 15 || syncBuckets[0] != 0.001 || syncBuckets[14] != 16.384 {
		t.Errorf("%d buckets of syncs: %v", n, syncBuckets)
	}
}

func TestKubeProxysMetricsAreWellFormed(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(newKube(&control.Progress{}))
	problems, err := testutil.GatherAndLint(reg)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if p.Metric != noLocal.name { // a gauge that kube-proxy calls a total
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}

func TestWhatElseIsAnsweredWhereMetricsAre(t *testing.T) {
	_, opts := newWorld(t)
	opts.Mode = ""
	opts.Log = slog.New(slog.DiscardHandler)
	bare := httptest.NewServer(NewHandler(opts))
	defer bare.Close()
	opts.Kube, opts.Mode, opts.Profiling = newKube(&control.Progress{}), "ebpf", true
	opts.Config = func() any { return map[string]any{"kubeproxy.config.k8s.io": map[string]string{"mode": "ebpf"}} }
	full := httptest.NewServer(NewHandler(opts))
	defer full.Close()
	const plain, json = "text/plain; charset=utf-8", "application/json"
	for _, tc := range []struct {
		at        *httptest.Server
		path      string
		status    int
		kind, has string
		whole     bool
	}{
		{bare, "/healthz", 200, plain, "ok", true},
		{full, "/healthz", 200, plain, "ok", true},
		{full, "/proxyMode", 200, plain, "ebpf", true},
		{full, "/configz", 200, json, `{"kubeproxy.config.k8s.io":{"mode":"ebpf"}}`, true},
		{full, "/metrics/slis", 200, "", `kubernetes_healthcheck{name="proxy",type="livez"} 1`, false},
		{full, "/metrics", 200, "", "kubeproxy_network_programming_duration_seconds_bucket{", false},
		{full, "/metrics", 200, "", "waggle_applies_total{", false},
		{full, "/metrics?backends=false", 200, "", "kubernetes_build_info{", false},
		{full, "/debug/pprof/", 200, "", "goroutine", false},
		{full, "/debug/pprof/heap?debug=1", 200, "", "heap profile", false},
		{full, "/debug/pprof/cmdline", 200, "", "test", false},
		{bare, "/proxyMode", 404, "", "", false},
		{bare, "/configz", 404, "", "", false},
		{bare, "/metrics/slis", 404, "", "", false},
		{bare, "/debug/pprof/", 404, "", "", false},
		{bare, "/debug/pprof/cmdline", 404, "", "", false},
	} {
		res, err := http.Get(tc.at.URL + tc.path)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		if body := string(b); res.StatusCode != tc.status || !strings.Contains(body, tc.has) || tc.whole && body != tc.has {
			t.Errorf("%s: status %d, want %d with %q; it is %.300s", tc.path, res.StatusCode, tc.status, tc.has, body)
		}
		if kind := res.Header.Get("Content-Type"); tc.kind != "" && (kind != tc.kind || res.Header.Get("X-Content-Type-Options") != "nosniff") {
			t.Errorf("%s: header %v, want %s", tc.path, res.Header, tc.kind)
		}
	}
}
