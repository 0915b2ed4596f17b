// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"

	"github.com/waggle-lb/waggle/dataplane/ebpf"
	"github.com/waggle-lb/waggle/internal/cli"
)

func TestVerbs(t *testing.T) {
	tests := []struct{ name, args string }{
		{"services", "services"},
		{"services-wide", "services -o wide"},
		{"backends-service", "backends --service web"},
		{"backends-one-family", "backends --service web/ipv6 -o json"},
		{"backends-idle", "backends --service idle"},
		{"backends-unknown-service", "backends --service nope"},
		{"flows", "flows"},
		{"flows-service-wide", "flows --service web/ipv6 -o wide"},
		{"flows-limit", "flows --service web --limit 1 -o json"},
		{"flows-exact-limit", "flows --limit 3"},
		{"flows-bad-limit", "flows --limit -1"},
		{"stats", "stats"},
		{"stats-wide", "stats -o wide"},
		{"stats-yaml", "stats -o yaml"},
		{"status", "status"},
		{"status-json", "status -o json"},
		{"status-not-running", "status --pin-path /sys/fs/bpf/other"},
		{"version", "version"},
		{"version-json", "version -o json"},
		{"cleanup", "cleanup"},
		{"cleanup-nothing", "cleanup --pin-path /sys/fs/bpf/other"},
		{"not-running", "services --pin-path /sys/fs/bpf/other"},
		{"unknown-verb", "servces"},
		{"unknown-flag", "stats --servce web"},
		{"unknown-format", "stats -o xml"},
		{"unexpected-argument", "services web"},
		{"run-without-services", "run"},
		{"run-two-sources", "run --services x.yaml --kubeconfig y"},
		{"run-flag-of-the-other-source", "run --services x.yaml --nodeport-addresses all"},
		{"run-flag-of-another-mode", "run --kubeconfig y --cluster-cidr 10.244.0.0/16 --detect-local-mode NodeCIDR"},
		{"run-bad-external-ips", "run --kubeconfig y --external-ips 203.0.113.7/24"},
		{"run-mode-without-device", "run --kubeconfig y --detect-local-mode BridgeInterface"},
		{"run-bad-node-port-addresses", "run --kubeconfig y --nodeport-addresses everywhere"},
		{"run-unknown-scheduler", "run --services x.yaml --scheduler best"},
		{"run-bad-pattern", "run --services x.yaml --exclude-devices eth[0"},
		{"run-bad-ports", "run --services x.yaml --masquerade-ports 2000-1000"},
		{"run-bad-metrics-address", "run --services x.yaml --metrics-bind-address :10249"},
		{"run-bad-healthz-address", "run --kubeconfig y --healthz-bind-address localhost:10256"},
		{"run-profiling-nowhere", "run --services x.yaml --profiling"},
		{"check-missing-file", "run --check testdata/nothing.yaml"},
		{"complete-service", "__completeNoDesc backends --service "},
		{"diff-without-a-daemon", "diff"},
		{"complete-output", "__completeNoDesc services -o "},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newFakeReader(t)
			args := strings.Split(tt.args, " ")
			compareGolden(t, filepath.Join("testdata", "verbs", tt.name+".txt"), newTestEnv(r).transcript(t, args...))
			if r.closed > 1 {
				t.Errorf("the pins were closed %d times", r.closed)
			}
		})
	}
}

func TestReadErrorsFailTheVerb(t *testing.T) {
	broken := errors.New("map is broken")
	for _, tt := range []struct{ method, verb string }{
		{"Read", "services"}, {"Read", "backends"}, {"Read", "stats"}, {"Counters", "services"}, {"Flows", "flows"}, {"Recount", "stats"},
		{"Status", "status"}, {"Read", "status"}, {"Recount", "status"}, {"Close", "status"},
		{"Close", "services"}, {"Close", "flows"}, {"Read", "clients"}, {"Clients", "clients"}, {"Close", "clients"},
		{"Read", "services -o ipvsadm"}, {"Counters", "services -o ipvsadm"}, {"Close", "services -o ipvsadm"},
		{"Read", "flows -o ipvsadm"}, {"Flows", "flows -o ipvsadm"}, {"Clients", "flows -o ipvsadm"}, {"Close", "flows -o ipvsadm"},
	} {
		r := newFakeReader(t)
		r.errs[tt.method] = broken
		e := newTestEnv(r)
		if code := execute(t.Context(), &e.env, strings.Fields(tt.verb)); code != exitFailed {
			t.Errorf("%s with a broken %s exits with %d, want %d", tt.verb, tt.method, code, exitFailed)
		}
		if !strings.Contains(e.err.String(), broken.Error()) || e.out.Len() > 0 {
			t.Errorf("%s with a broken %s: stdout %q, stderr %q", tt.verb, tt.method, e.out.String(), e.err.String())
		}
		if r.closed != 1 {
			t.Errorf("%s with a broken %s closed the pins %d times", tt.verb, tt.method, r.closed)
		}
	}
}

func TestCleanupNamesWhatItRemovedBeforeItFailed(t *testing.T) {
	e := newTestEnv(nil)
	e.cleanup = func(string) ([]string, error) { return []string{"/pins/flows"}, fs.ErrPermission }
	got := e.transcript(t, "cleanup")
	for _, want := range []string{"removed /pins/flows\n", "waggle: permission denied\n", "run it as root", "exit 1"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in:\n%s", want, got)
		}
	}
}

func TestFlowsEndWithTheirContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, args := range [][]string{{"flows"}, {"flows", "-o", "ipvsadm"}} {
		e := newTestEnv(newFakeReader(t))
		if code := execute(ctx, &e.env, args); code != exitFailed || !strings.Contains(e.err.String(), context.Canceled.Error()) || e.out.Len() > 0 {
			t.Errorf("%s: exit %d, stdout %q, stderr %q; want to fail with %v", args, code, e.out.String(), e.err.String(), context.Canceled)
		}
	}
}

func TestEveryDropReasonHasAMeaning(t *testing.T) {
	unknown := cli.Meaning("")
	for _, reason := range ebpf.Reasons() {
		if cli.Meaning(reason) == unknown {
			t.Errorf("stats has no meaning for %s", reason)
		}
	}
}
