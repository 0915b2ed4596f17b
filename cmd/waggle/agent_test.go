// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/internal/cli"
	"github.com/waggle-lb/waggle/internal/httpd"
	"github.com/waggle-lb/waggle/internal/takeover"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/sync/control"
)

// answering is an env whose daemon answers by h at its socket.
func answering(t *testing.T, r *fakeReader, pinPath string, h http.HandlerFunc) *testEnv {
	t.Helper()
	e := newTestEnv(r)
	e.runDir = t.TempDir()
	l, err := httpd.ListenUnix(socketOf(e.runDir, pinPath))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: h}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		<-ended
	})
	return e
}

// daemonOf is an env whose daemon is of the same build, of these states.
func daemonOf(t *testing.T, r *fakeReader, dp dataplane.Status, loop control.Status) *testEnv {
	t.Helper()
	p := cli.Process{PID: 77, Version: "v0.1.0", Commit: "0123abc", Started: time.Unix(1_700_000_000, 0)}
	h := agentHandler(p, about{
		dataplane: func() (dataplane.Status, error) { return dp, nil }, loop: func() control.Status { return loop },
		chosen:    func(*lb.Snapshot) cli.Chosen { return cli.Chosen{Why: "the test says so"} },
		leftovers: func() takeover.Status { return takeover.Status{} },
	}, slog.New(slog.DiscardHandler))
	return answering(t, r, defaultPinPath, h.ServeHTTP)
}

func statusAnswer(t *testing.T) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != statusPath {
			http.NotFound(w, r)
			return
		}
		err := json.NewEncoder(w).Encode(map[string]any{
			"daemon": map[string]any{
				"pid": 77, "version": "v0.1.0", "commit": "0123abc", "started": "2026-01-02T03:04:05Z",
				"sources": []map[string]any{{"name": "file a", "synced": true, "services": 3}},
			},
			"attach":  map[string]any{"name": "tcx", "why": "the kernel has it"},
			"devices": []map[string]any{{"name": "eth7", "index": 2, "why": "excluded by --exclude-devices"}},
			"unknown": "a field of a newer daemon",
		})
		if err != nil {
			t.Error(err)
		}
	}
}

func TestStatusAsksTheDaemonOfItsPinPath(t *testing.T) {
	dp := dataplane.Status{Dataplane: "ebpf", Method: "tcx", Why: "the kernel has it", Devices: []dataplane.Device{{Name: "eth7", Index: 2, Why: "excluded by --exclude-devices"}}}
	loop := control.Status{Sources: []control.SourceStatus{{Name: "file a", Delivered: true, Services: 3}}}
	e := daemonOf(t, newFakeReader(t), dp, loop)
	compareGolden(t, filepath.Join("testdata", "verbs", "status-daemon.txt"), e.transcript(t, "status"))
}

func TestStatusOfADaemonThatHasWrittenNothing(t *testing.T) {
	const pins = "/sys/fs/bpf/other" // where the fake has nothing
	e := answering(t, newFakeReader(t), pins, statusAnswer(t))
	got := e.transcript(t, "status", "--pin-path", pins)
	for _, want := range []string{"exit 0", "nothing was written to " + pins + " yet, or pins are missing", "pid 77", "eth7 (excluded by --exclude-devices)"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in:\n%s", want, got)
		}
	}
}

func TestADaemonThatFailsLeavesThePins(t *testing.T) {
	e := answering(t, newFakeReader(t), defaultPinPath, func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "map meta is broken", http.StatusInternalServerError)
	})
	var doc cli.Status
	e.transcript(t, "status", "-o", "json")
	if err := json.Unmarshal(e.out.Bytes(), &doc); err != nil {
		t.Fatal(err)
	}
	if doc.Daemon != nil || !strings.Contains(doc.DaemonError, "answers: map meta is broken") || len(doc.Devices) != 2 {
		t.Errorf("got %+v, want what the pins say, and the error", doc.Agent)
	}
}

func TestEachPinPathHasASocketOfItsOwn(t *testing.T) {
	seen := make(map[string]string)
	long := "/sys/fs/bpf/" + strings.Repeat("x", 200)
	for _, pins := range []string{"/sys/fs/bpf/waggle", "/sys/fs/bpf/a/waggle", "/sys/fs/bpf/a-waggle", long, long + "y"} {
		s := socketOf("/run/waggle", pins)
		if other, ok := seen[s]; ok || len(s) > 107 {
			t.Errorf("%s has the socket %s of %s, or it is too long", pins, s, other)
		}
		seen[s] = pins
	}
	if a, b := socketOf("/run", "/sys/fs/bpf/waggle"), socketOf("/run", "/sys/fs/bpf/../bpf/waggle/"); a != b {
		t.Errorf("one place has two sockets: %s and %s", a, b)
	}
}

func TestCleanupRemovesTheSocketOfAKilledDaemon(t *testing.T) {
	e := answering(t, nil, defaultPinPath, http.NotFound)
	want := fmt.Sprintf("removed %s\n", socketOf(e.runDir, defaultPinPath))
	if got := e.transcript(t, "cleanup"); !strings.Contains(got, want) {
		t.Errorf("no %q in:\n%s", want, got)
	}
	if got := e.transcript(t, "cleanup"); strings.Contains(got, want) {
		t.Errorf("the second time:\n%s", got)
	}
}
