// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package lab_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/internal/netlab"
)

// Of the director.
const (
	metricsAddr = "127.0.0.1:10249"
	healthzAddr = "127.0.0.1:10256"
)

// scrape asks the daemon for its metrics.
type scrape map[string]*dto.MetricFamily

func (s *scene) scrape() scrape {
	s.t.Helper()
	client := http.Client{Transport: &http.Transport{DialContext: s.Director.Dial, DisableKeepAlives: true}, Timeout: patience}
	res, err := client.Get("http://" + metricsAddr + "/metrics")
	if err != nil {
		s.t.Fatal(err)
	}
	defer res.Body.Close()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	got, err := parser.TextToMetricFamilies(res.Body)
	if err != nil {
		s.t.Fatalf("status %s: %v", res.Status, err)
	}
	return got
}

// sum adds up the series of a metric that have these labels, "state=active" say.
func (s scrape) sum(name string, labels ...string) (sum float64) {
	for _, m := range s[name].GetMetric() {
		has := make(map[string]bool)
		for _, l := range m.Label {
			has[l.GetName()+"="+l.GetValue()] = true
		}
		match := true
		for _, l := range labels {
			match = match && has[l]
		}
		if match {
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return sum
}

// wantMetrics compares sums.
func (s *scene) wantMetrics(want map[string]float64) {
	s.t.Helper()
	s.eventually("the metrics are as wanted", func() error {
		got := s.scrape()
		for name, n := range want {
			words := strings.Fields(name)
			if got[words[0]] == nil {
				return fmt.Errorf("there is no %s", words[0])
			}
			if sum := got.sum(words[0], words[1:]...); sum != n {
				return fmt.Errorf("%s is %v, want %v", name, sum, n)
			}
		}
		return nil
	})
}

func TestMetricsOfARunningDaemon(t *testing.T) {
	s := newMetricsScene(t)
	s.hold(4)
	for range 2 {
		if _, err := ask(s.Clients()[0], vip4); err != nil {
			t.Fatal(err)
		}
	}
	want := map[string]float64{
		"waggle_backend_flows state=active":               4,
		"waggle_backend_flows state=inactive family=ipv4": 2,
		"waggle_backend_connections_total":                6,
		"waggle_backend_weight":                           8,
		"waggle_service_info scheduler=rr":                4,
		"waggle_service_backends state=usable":            8,
		"waggle_service_backends state=draining":          0,
		"waggle_drops_total reason=empty_pool":            0,
		"waggle_flow_entries":                             12,
		"waggle_flow_entries_limit":                       4096,
		"waggle_flow_entries_max":                         8192,
		"waggle_half_open_flows":                          0,
		"waggle_audit_difference":                         0,
		"waggle_audit_backends":                           8,
		"waggle_applies_total result=complete":            1,
		"waggle_failed_services":                          0,
		"waggle_sources_waiting":                          0,
		"waggle_config_generation":                        1,
		"waggle_collect_errors_total":                     0,
		"waggle_build_info":                               1,
		"waggle_backends_left_out":                        0,
	}
	s.wantMetrics(want)
	s.wantHealth()
	got := s.scrape()
	if in, out := got.sum("waggle_backend_bytes_total", "direction=in"), got.sum("waggle_backend_bytes_total", "direction=out"); in < 6*40 || out < 6*40 {
		t.Errorf("%v bytes in, %v out, want at least those of the headers", in, out)
	}
	for _, name := range []string{"go_goroutines", "process_resident_memory_bytes", "waggle_apply_timestamp_seconds", "waggle_audit_timestamp_seconds"} {
		if got.sum(name) < 1 {
			t.Errorf("%s is %v", name, got.sum(name))
		}
	}

	// counters go on where they were
	s.kill()
	s.start()
	want["waggle_config_generation"] = 2
	s.wantMetrics(want)
}

func newMetricsScene(t *testing.T) *scene {
	t.Helper()
	s := newScene(t, netlab.Options{Prefix: "met", Clients: 1, Servers: 2, VIPs: []netip.Addr{netlab.VIP4, netlab.VIP6}})
	s.args = []string{"--metrics-bind-address", metricsAddr, "--healthz-bind-address", healthzAddr, "--flows-min", "4096", "--flows-max", "8192"}
	for i, srv := range s.Servers() {
		s.serve(srv, fmt.Sprintf("s%d", i+1), 8080)
	}
	s.write(s.text(s.Servers()...))
	s.start()
	return s
}

// wantHealth asks as probes do.
func (s *scene) wantHealth() {
	s.t.Helper()
	client := http.Client{Transport: &http.Transport{DialContext: s.Director.Dial, DisableKeepAlives: true}, Timeout: patience}
	for url, want := range map[string]string{
		healthzAddr + "/healthz":   `"nodeEligible":true,"healthy":true`, // there is no Node that could say otherwise
		healthzAddr + "/livez":     `"healthy":true`,
		metricsAddr + "/proxyMode": "ebpf",
	} {
		res, err := client.Get("http://" + url)
		if err != nil {
			s.t.Fatal(err)
		}
		b, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || res.StatusCode != http.StatusOK || !strings.Contains(string(b), want) {
			s.t.Errorf("%s says %s, %s, %v; want %s", url, res.Status, b, err, want)
		}
	}
	if got := s.scrape(); got["kubeproxy_proxy_healthz_total"] != nil {
		s.t.Error("it has kube-proxy's metrics, and no API server")
	}
}

func TestTwoDaemonsCannotServeMetricsAtOneAddress(t *testing.T) {
	s := newMetricsScene(t)
	cmd := exec.Command(waggle, "run", "--services", s.rules, "--pin-path", s.pins+"-other", "--socket-lb", "off", "--metrics-bind-address", metricsAddr)
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := s.Director.Run(cmd); err == nil || !strings.Contains(said.String(), "--metrics-bind-address: listen tcp "+metricsAddr) ||
		!strings.Contains(said.String(), "another process listens there") {
		t.Errorf("the second daemon: %v\n%s", err, &said)
	}
	s.wantMetrics(map[string]float64{"waggle_service_info": 4})
}

// A count that is wrong shows in the log, in the metrics and in `waggle stats`,
// and nobody mends it.
func TestACountThatIsWrongIsShownEverywhere(t *testing.T) {
	s := newMetricsScene(t)
	s.hold(2)
	s.wantMetrics(map[string]float64{"waggle_audit_difference": 0, "waggle_audit_backends": 8})
	m, err := ebpf.LoadPinnedMap(filepath.Join(s.pins, "load"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	var l bpf.LBBackendLoad
	if err := m.Lookup(uint32(1), &l); err != nil {
		t.Fatal(err)
	}
	l.Active += 5
	if err := m.Put(uint32(1), l); err != nil {
		t.Fatal(err)
	}
	s.kill() // there is an audit at the start
	s.start()
	s.wantMetrics(map[string]float64{"waggle_audit_difference": 5})
	s.eventually("the log names the backend", func() error {
		s.logMu.Lock()
		defer s.logMu.Unlock()
		if !strings.Contains(s.log.String(), "connection counts differ from the flows and sockets") {
			return errors.New("no word of it")
		}
		return nil
	})
	s.kill()
	var stats struct {
		Counts struct {
			Backends, Skipped, Difference int
			Wrong                         []struct{ Active, ActiveFlows int }
		}
	}
	if err := json.Unmarshal([]byte(s.must("stats", "-o", "json")), &stats); err != nil {
		t.Fatal(err)
	}
	c := stats.Counts
	if c.Backends != 8 || c.Skipped != 0 || c.Difference != 5 || len(c.Wrong) != 1 || c.Wrong[0].Active != c.Wrong[0].ActiveFlows+5 {
		t.Errorf("stats: %+v, want 8 backends compared, one that is 5 off", c)
	}
	if text := s.must("stats"); !strings.Contains(text, "counts: 8 backends recounted, difference 5\n") {
		t.Errorf("stats:\n%s", text)
	}
}
