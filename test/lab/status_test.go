// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package lab_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/waggle-lb/waggle/internal/cli"
	"github.com/waggle-lb/waggle/internal/netlab"
)

// status reads `waggle status`.
func (s *scene) status() (doc cli.Status) {
	s.t.Helper()
	if err := json.Unmarshal([]byte(s.must("status", "-o", "json")), &doc); err != nil {
		s.t.Fatal(err)
	}
	return doc
}

// onDevices compares which of the director's devices have programs.
func (s *scene) onDevices(doc *cli.Status) {
	s.t.Helper()
	want := map[string]bool{"lo": false}
	for _, n := range append(s.Clients(), s.Servers()...) {
		want[n.Device] = true
	}
	for _, d := range doc.Devices {
		if on, ok := want[d.Name]; !ok || d.Ingress != on || d.Egress != on || (d.Why == "") != on {
			s.t.Errorf("device %+v, want programs: %v", d, on)
		}
		delete(want, d.Name)
	}
	if len(want) > 0 {
		s.t.Errorf("status does not speak of %v", want)
	}
}

// TestAutoSaysWhyItTakesEBPF: of a kernel that takes the programs, and again where they
// run.
func TestAutoSaysWhyItTakesEBPF(t *testing.T) {
	s := newScene(t, netlab.Options{Prefix: "auto", Clients: 1, Servers: 1})
	s.write(s.text(s.Servers()...))
	s.dataplane = "auto"
	for _, why := range []string{"the kernel takes the programs", "its programs run here already"} {
		s.start()
		if got := s.status().Dataplane; got.Name != "ebpf" || !strings.Contains(got.Why, why) {
			t.Errorf("dataplane %+v, want ebpf, as %s", got, why)
		}
		s.kill()
	}
}

func TestStatusWithAndWithoutADaemon(t *testing.T) {
	s := started(t, 2, false)
	s.hold(4)
	doc := s.status()
	d := doc.Daemon
	if d == nil || d.PID != s.run.PID || d.Apply == nil || d.Apply.Added != 4 || len(d.Sources) != 1 || !d.Sources[0].Synced || len(d.Refused) != 0 {
		t.Fatalf("the daemon: %+v", d)
	}
	if doc.Attach.Name != "tcx" || doc.Generation != 1 || doc.Services != 4 || doc.Backends != 8 || doc.Flows.Entries != 8 || doc.Counts.Difference != 0 {
		t.Errorf("status %+v", doc)
	}
	s.onDevices(&doc)
	for _, m := range doc.Maps {
		if m.Name == "services" && m.Used != 4 || m.Used > m.Limit {
			t.Errorf("map %+v", m)
		}
	}
	if text := s.must("status"); strings.Count(text, "\n") > 45 || !strings.Contains(text, fmt.Sprintf("pid %d", s.run.PID)) {
		t.Errorf("no screen:\n%s", text)
	}

	s.kill()
	dead := s.status()
	if dead.Daemon != nil || !strings.Contains(dead.DaemonError, "nobody listens at /run/waggle/") || dead.Attach.Name != "tcx" || dead.Flows != doc.Flows {
		t.Errorf("status of a dead daemon: %+v", dead)
	}
	s.onDevices(&dead)
	if text := s.must("status"); !strings.Contains(text, "not running") {
		t.Errorf("no word of the daemon:\n%s", text)
	}

	s.start() // in place of the socket that is left
	if doc := s.status(); doc.Daemon == nil || doc.Daemon.PID != s.run.PID || doc.Generation != 2 {
		t.Errorf("status of the next daemon: %+v", doc)
	}
}

// A daemon that has no place for its socket serves all the same.
func TestStatusOfADaemonThatCannotListen(t *testing.T) {
	s := newScene(t, netlab.Options{Prefix: "lab", Clients: 1, Servers: 2})
	for i, srv := range s.Servers() {
		s.serve(srv, fmt.Sprintf("s%d", i+1), 8080)
	}
	s.write(s.text(s.Servers()...))
	script := filepath.Join(t.TempDir(), "waggle")
	text := "#!/bin/sh\nexec unshare -m sh -c 'mount -t tmpfs -o ro tmpfs /run && exec " + waggle + " \"$@\"' waggle \"$@\"\n"
	if err := os.WriteFile(script, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	s.daemon = script
	s.start()
	s.logs(1, "level=WARN", "waggle status", "read-only file system")
	doc := s.status()
	if doc.Daemon != nil || doc.Services != 4 || doc.Attach.Name != "tcx" {
		t.Errorf("status %+v", doc)
	}
	s.onDevices(&doc)
	st := s.stream(vip4)
	s.finish([]*stream{st})
}
