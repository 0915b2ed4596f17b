// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package lab_test

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/internal/cli"
	"github.com/waggle-lb/waggle/internal/netlab"
)

// allOptions has everything that can be written of services.
const allOptions = `apiVersion: waggle.dev/v1alpha1
kind: ServiceList
services:
- name: web
  frontends: ["198.18.255.10:80/TCP", "[fd00:f::10]:80/TCP", "198.18.255.10:81/TCP"]
  scheduler: wrr
  masquerade: always
  backends:
  - {address: "198.19.0.2:8080", weight: 5, upperThreshold: 9, lowerThreshold: 3}
  - {address: "198.19.0.3:8080", weight: 0}
  - {address: "198.19.0.4:8080", weight: 1, unhealthy: true}
  - {address: "[fd00:5::2]:8080"}
- name: dns
  frontends: ["198.18.255.11:53/UDP"]
  scheduler: sh
  flags: [sh-port, sh-fallback]
  onePacket: true
  backends: [{address: "198.19.0.3:53"}, {address: "198.19.0.2:53"}]
- name: any
  frontends: ["198.18.255.12:0/TCP"]
  scheduler: mh
  affinity: {timeout: 300s, mask: 24, quiesced: keep}
  lostBackend: drop
  portReuse: never
  sockets: host
  backends: [{address: "198.19.0.2:0", weight: 3}]
- name: empty
  frontends: ["198.18.255.13:80/TCP"]
  scheduler: lc
  lostBackend: reset
  portReuse: finished
  backends: []
`

// differs returns what `waggle diff` prints, and its exit code.
func (s *scene) differs(args ...string) (d cli.Diff, code int) {
	s.t.Helper()
	out, errs, code := s.verb(append([]string{"diff", "-o", "json"}, args...)...)
	if code > 1 || errs != "" {
		s.t.Fatalf("waggle diff %v: exit %d, %q", args, code, errs)
	}
	if err := json.Unmarshal([]byte(out), &d); err != nil {
		s.t.Fatal(err)
	}
	if d.Empty() != (code == 0) {
		s.t.Errorf("exit %d with %+v", code, d.Items)
	}
	return d, code
}

func (s *scene) pinnedMap(name string) *ebpf.Map {
	s.t.Helper()
	m, err := ebpf.LoadPinnedMap(filepath.Join(s.pins, name), nil)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { m.Close() })
	return m
}

func TestDiffFindsWhatTheKernelHasOtherwise(t *testing.T) {
	s := newScene(t, netlab.Options{Prefix: "lab", Clients: 1, Servers: 1})
	s.write(allOptions)
	s.start()
	if out := s.must("diff"); out != "" {
		t.Errorf("after a start: %s", out)
	}
	if out := s.must("diff", "--services", s.rules); out != "" {
		t.Errorf("against the file: %s", out)
	}

	// somebody writes to the maps
	backends := s.pinnedMap("config/backends")
	var b bpf.LBBackend
	if err := backends.Lookup(uint32(1), &b); err != nil {
		t.Fatal(err)
	}
	b.Weight += 7
	if err := backends.Put(uint32(1), b); err != nil {
		t.Fatal(err)
	}
	vips := s.pinnedMap("config/vips")
	addr := [16]byte{10: 0xff, 11: 0xff, 12: 198, 13: 18, 14: 255, 15: 10}
	if err := vips.Delete(bpf.LBVipKey{Addr: addr, Port: 81, Proto: 6}); err != nil {
		t.Fatal(err)
	}
	d, code := s.differs()
	fields := make(map[string]string)
	for _, item := range d.Items {
		for _, f := range item.Fields {
			fields[item.Service+" "+f.Field] = f.Kernel
		}
	}
	if code != 1 || len(fields) != 2 || fields["web frontend 198.18.255.10:81/TCP"] != "none" {
		t.Errorf("exit %d, %v, want the frontend and a backend", code, fields)
	}

	// with the daemon dead, against another file
	s.kill()
	if _, errs, code := s.verb("diff"); code != 2 || !strings.Contains(errs, "waggle diff --services FILE") {
		t.Errorf("without a daemon: exit %d, %q, want 2 and what to do", code, errs)
	}
	s.write(strings.Replace(allOptions, "name: empty", "name: other", 1))
	d, _ = s.differs("--services", s.rules)
	what := make(map[string]string)
	for _, item := range d.Items {
		what[item.Service] = item.Difference
	}
	if what["other"] != "missing" || what["empty"] != "extra" || what["web"] != "changed" {
		t.Errorf("against the file: %v", what)
	}

	s.start() // which makes it as the file says
	if out := s.must("diff"); out != "" {
		t.Errorf("after the next start: %s", out)
	}
}
