// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"github.com/waggle-lb/waggle/dataplane/fake"
	"github.com/waggle-lb/waggle/internal/metrics"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/sync/control"
	"github.com/waggle-lb/waggle/sync/kube"
)

func TestWhereTheDaemonAnswers(t *testing.T) {
	for _, tc := range []struct {
		args      string
		apiServer bool
		want      string // healthz, metrics, and whether it ends if one cannot be had
	}{
		{"", true, "0.0.0.0:10256 127.0.0.1:10249 false"},
		{"", false, "invalid AddrPort invalid AddrPort true"},
		{"--healthz-bind-address= --metrics-bind-address=", true, "invalid AddrPort invalid AddrPort false"},
		{"--healthz-bind-address=[::]:1 --bind-address-hard-fail", true, "[::]:1 127.0.0.1:10249 true"},
		{"--metrics-bind-address=127.0.0.1:2 --bind-address-hard-fail=false --profiling", false, "invalid AddrPort 127.0.0.1:2 false"},
	} {
		var f listenFlags
		cmd := &cobra.Command{}
		f.register(cmd)
		if err := cmd.ParseFlags(strings.Fields(tc.args)); err != nil {
			t.Fatal(err)
		}
		if err := f.validate(tc.apiServer); err != nil {
			t.Errorf("%q: %v", tc.args, err)
		}
		if got := fmt.Sprint(f.healthzAddr, " ", f.metricsAddr, " ", f.hardFail); got != tc.want {
			t.Errorf("%q, API server %t: %s, want %s", tc.args, tc.apiServer, got, tc.want)
		}
	}
}

// newKubeServers are those of a daemon that follows an API server which never answers.
func newKubeServers(t *testing.T) *servers {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	s, err := newServers(&newTestEnv(nil).env, &runFlags{}, func() control.Progress { return control.Progress{} }, log)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "config")
	text := `{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: k}}], clusters: [{name: k, cluster: {server: "http://192.0.2.1"}}]}`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	config, err := kube.Config(kube.Connection{Kubeconfig: file})
	if err != nil {
		t.Fatal(err)
	}
	if s.source, err = kube.New(kube.Options{Config: config, Log: log, Deliver: func(kube.Delivery) {}}); err != nil {
		t.Fatal(err)
	}
	return s
}

// What is of the machine counts at once, what is of services once the kernel has it.
func TestWhatIsToldWhen(t *testing.T) {
	s := newKubeServers(t)
	const name = "kubeproxy_sync_proxy_rules_"
	want := func(what string, healthz int, series ...string) {
		t.Helper()
		r := httptest.NewRecorder()
		s.proxy.Handler().ServeHTTP(r, httptest.NewRequest(http.MethodGet, "/healthz", nil))
		if r.Code != healthz {
			t.Errorf("%s: /healthz says %d, want %d", what, r.Code, healthz)
		}
		r = httptest.NewRecorder()
		reader := newFakeReader(t)
		h := metrics.NewHandler(metrics.Options{Dataplane: reader, Loop: func() control.Status { return control.Status{} }, Log: s.log, Kube: s.kube})
		h.ServeHTTP(r, httptest.NewRequest(http.MethodGet, "/metrics", nil))
		for _, line := range series {
			if !strings.Contains(r.Body.String(), "\n"+line+"\n") {
				t.Errorf("%s: no %s", what, line)
			}
		}
	}
	var applied []func()
	deliver := s.deliver(func(_ *lb.Snapshot, f ...func()) { applied = append(applied, f...) })
	want("at first", 503)
	deliver(kube.Delivery{Snapshot: &lb.Snapshot{}, Facts: kube.Facts{
		Eligible: true, Services: 2, Slices: 3,
		Triggers: []kube.Trigger{{Family: lb.IPv4, At: time.Now().Add(-time.Minute)}, {Family: lb.IPv4, At: time.Now()}},
		NoLocal:  map[lb.Family]kube.NoLocal{lb.IPv4: {Internal: 4, External: 5}},
	}})
	want("delivered", 200, name+"service_changes_total 2", name+"service_changes_pending 2", name+"endpoint_changes_total 3", name+"endpoint_changes_pending 3",
		name+`no_local_endpoints_total{ip_family="IPv4",traffic_policy="external"} 0`, `kubeproxy_network_programming_duration_seconds_count{ip_family="IPv4"} 0`)
	deliver(kube.Delivery{Snapshot: &lb.Snapshot{}, Facts: kube.Facts{Services: 1}})
	want("to be deleted", 503, name+"service_changes_total 3", name+"service_changes_pending 3")
	applied[0]()
	want("applied", 503, name+"service_changes_total 3", name+"service_changes_pending 1", name+"endpoint_changes_pending 0",
		name+`no_local_endpoints_total{ip_family="IPv4",traffic_policy="internal"} 4`, name+`no_local_endpoints_total{ip_family="IPv4",traffic_policy="external"} 5`,
		`kubeproxy_network_programming_duration_seconds_count{ip_family="IPv4"} 2`, `kubeproxy_network_programming_duration_seconds_bucket{ip_family="IPv4",le="0.25"} 1`,
		`kubeproxy_network_programming_duration_seconds_bucket{ip_family="IPv4",le="65"} 2`)
	applied[1]()
	want("all applied", 503, name+"service_changes_pending 0", name+`no_local_endpoints_total{ip_family="IPv4",traffic_policy="external"} 0`)
}

func TestWhatADaemonRuns(t *testing.T) {
	tasks := func(s *servers) (out []string) {
		for _, task := range s.tasks(metrics.Options{Loop: func() control.Status { return control.Status{} }, Log: s.log}) {
			out = append(out, task.String())
		}
		return out
	}
	s := newKubeServers(t)
	if diff := cmp.Diff([]string{"health check node ports"}, tasks(s)); diff != "" {
		t.Errorf("without addresses (-want +got):\n%s", diff)
	}
	s.flags.given = func(string) bool { return false }
	if err := s.flags.validate(true); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"metrics at 127.0.0.1:10249", "healthz at 0.0.0.0:10256", "health check node ports"}, tasks(s)); diff != "" {
		t.Errorf("with an API server (-want +got):\n%s", diff)
	}
	file, err := newServers(&newTestEnv(nil).env, &runFlags{services: "x"}, nil, s.log)
	if err != nil {
		t.Fatal(err)
	}
	if got := tasks(file); got != nil {
		t.Errorf("with a file: %v", got)
	}
}

// From the loop's failure to the answer: what waits for a minute is no longer well, and a
// service that fails alone is none of it.
func TestADaemonThatCannotWriteIsNotHealthy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var broken, rejected atomic.Bool
		dp := fake.New(fake.Options{Fail: func(op fake.Op, _ lb.ServiceID) error {
			if op == fake.OpApply && broken.Load() || op != fake.OpApply && rejected.Load() {
				return errors.New("disk on fire")
			}
			return nil
		}})
		log := slog.New(slog.DiscardHandler)
		loop, err := control.New(control.Options{Dataplane: dp, Logger: log})
		if err != nil {
			t.Fatal(err)
		}
		s, err := newServers(&newTestEnv(nil).env, &runFlags{services: "x"}, loop.Progress, log)
		if err != nil {
			t.Fatal(err)
		}
		deliver := loop.Source("file")
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- loop.Run(ctx) }()
		want := func(what string, code int) {
			t.Helper()
			synctest.Wait()
			r := httptest.NewRecorder()
			s.proxy.Handler().ServeHTTP(r, httptest.NewRequest(http.MethodGet, "/livez", nil))
			if r.Code != code {
				t.Errorf("%s: %d, want %d", what, r.Code, code)
			}
		}
		time.Sleep(time.Hour)
		want("nothing is delivered yet", 200)
		deliver(nil)
		want("nothing is wanted", 200)
		web := &lb.Service{ID: lb.ServiceID{Name: "web", Family: lb.IPv4}, Scheduler: "rr"}
		snap, err := lb.NewSnapshot(web)
		if err != nil {
			t.Fatal(err)
		}
		rejected.Store(true)
		time.Sleep(time.Hour)
		deliver(snap)
		time.Sleep(time.Hour)
		want("a service cannot be written", 200)
		broken.Store(true)
		deliver(nil)
		time.Sleep(59 * time.Second)
		want("nothing can be written", 200)
		time.Sleep(time.Minute)
		want("nothing can be written for long", 503)
		broken.Store(false)
		time.Sleep(time.Minute)
		want("it is written", 200)
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
