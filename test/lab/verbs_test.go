// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package lab_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/waggle-lb/waggle/internal/netlab"
)

// verb runs the binary with the scene's pin path, in the director, and returns
// what it wrote and its exit code.
func (s *scene) verb(args ...string) (stdout, stderr string, code int) {
	s.t.Helper()
	cmd := exec.Command(waggle, append(args, "--pin-path", s.pins)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := s.Director.Run(cmd)
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		code = exit.ExitCode()
	} else if err != nil {
		s.t.Fatal(err)
	}
	return out.String(), errs.String(), code
}

// refused starts a daemon that has to refuse, and returns what it says.
func (s *scene) refused(services, pins string) string {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, waggle, "run", "--services", services, "--pin-path", pins, "--socket-lb", "off")
	var errs bytes.Buffer
	cmd.Stderr = &errs
	err := s.Director.Run(cmd)
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 1 {
		s.t.Errorf("run ended with %v, want exit 1; it said\n%s", err, &errs)
	}
	return errs.String()
}

// must runs a verb that has to succeed without a word on stderr.
func (s *scene) must(args ...string) string {
	s.t.Helper()
	out, errs, code := s.verb(args...)
	if code != 0 || errs != "" {
		s.t.Fatalf("waggle %s: exit %d, %q", strings.Join(args, " "), code, errs)
	}
	return out
}

// items reads the list of a verb from JSON.
func (s *scene) items(verb string) []map[string]any {
	s.t.Helper()
	var list struct{ Items []map[string]any }
	if err := json.Unmarshal([]byte(s.must(verb, "-o", "json")), &list); err != nil {
		s.t.Fatalf("%s: %v", verb, err)
	}
	return list.Items
}

// wantSameInYAML compares YAML with JSON, but for what moves with the clock.
func (s *scene) wantSameInYAML(verb string) {
	s.t.Helper()
	var y struct{ Items []map[string]any }
	if err := yaml.Unmarshal([]byte(s.must(verb, "-o", "yaml")), &y); err != nil {
		s.t.Fatalf("%s: %v", verb, err)
	}
	text := func(list []map[string]any) string {
		for _, item := range list {
			delete(item, "idleSeconds")
			delete(item, "expiresSeconds")
		}
		b, err := json.MarshalIndent(list, "", " ")
		if err != nil {
			s.t.Fatal(err)
		}
		return string(b)
	}
	if diff := cmp.Diff(text(s.items(verb)), text(y.Items)); diff != "" {
		s.t.Errorf("%s: YAML differs (-json +yaml):\n%s", verb, diff)
	}
}

// hold opens one connection to each VIP and returns them.
func (s *scene) hold(n int) (conns []net.Conn) {
	s.t.Helper()
	for i := range n {
		c, _, err := connect(s.Clients()[0], vips[i%2])
		if err != nil {
			s.t.Fatal(err)
		}
		s.t.Cleanup(func() { c.Close() })
		conns = append(conns, c)
	}
	return conns
}

func TestReadVerbsWorkWithTheDaemonDead(t *testing.T) {
	s := started(t, 2, false)
	conns := s.hold(6)
	for range 4 {
		if _, err := ask(s.Clients()[0], vip4); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := ask(s.Clients()[0], netip.AddrPortFrom(netlab.VIP6, 9)); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatalf("an unknown port: %v, want connection refused", err)
	}
	s.kill()

	established := map[string]map[string]any{}
	udp := 0
	for _, f := range s.items("flows") {
		switch {
		case f["protocol"] == "UDP":
			udp++
		case f["state"] == "ESTABLISHED":
			established[f["client"].(string)] = f
		}
	}
	if len(established) != len(conns) || udp != 4 {
		t.Errorf("%d established and %d UDP flows, want %d and 4", len(established), udp, len(conns))
	}
	for _, format := range []string{"table", "wide"} {
		text := s.must("flows", "-o", format)
		for i, c := range conns {
			client := c.LocalAddr().String()
			if f := established[client]; f == nil || f["vip"] != vips[i%2].String() {
				t.Errorf("flow of %s: %v, want one to %s", client, f, vips[i%2])
			}
			if !strings.Contains(text, client) {
				t.Errorf("flows -o %s does not show %s:\n%s", format, client, text)
			}
		}
	}
	for _, verb := range []string{"services", "backends", "flows"} {
		s.wantSameInYAML(verb)
	}
	s.wantLists(6, 4)
	for _, want := range []string{"198.18.255.10:80", "[fd00:f::10]:80"} {
		if text := s.must("services", "-o", "wide"); !strings.Contains(text, want) {
			t.Errorf("services -o wide has no %s:\n%s", want, text)
		}
	}
	s.wantStats(6, 4)
}

// wantStats compares the totals, and expects one packet to an unknown port.
func (s *scene) wantStats(active, inactive int) {
	s.t.Helper()
	var stats struct {
		Totals struct{ Services, Backends, Active, Inactive int }
		Drops  []struct {
			Reason  string
			Packets int
		}
	}
	if err := json.Unmarshal([]byte(s.must("stats", "-o", "json")), &stats); err != nil {
		s.t.Fatal(err)
	}
	dropped := map[string]int{}
	for _, d := range stats.Drops {
		dropped[d.Reason] = d.Packets
	}
	t := stats.Totals
	if t.Services != 4 || t.Backends != 8 || t.Active != active || t.Inactive != inactive || dropped["unknown_port"] != 1 {
		s.t.Errorf("stats: %+v, want 4 services, 8 backends, %d active, %d inactive, 1 packet to an unknown port", stats, active, inactive)
	}
	for _, format := range []string{"table", "wide", "yaml"} {
		if text := s.must("stats", "-o", format); !strings.Contains(text, "unknown_port") {
			s.t.Errorf("stats -o %s:\n%s", format, text)
		}
	}
}

// wantLists compares services and backends with the rules of two servers, the
// connections that are open, and the UDP flows there are.
func (s *scene) wantLists(active, inactive int) {
	s.t.Helper()
	sum := func(items []map[string]any, field string) (n int) {
		for _, i := range items {
			n += int(i[field].(float64))
		}
		return n
	}
	for verb, rows := range map[string]int{"services": 4, "backends": 8} {
		items := s.items(verb)
		if len(items) != rows || sum(items, "active") != active || sum(items, "inactive") != inactive {
			s.t.Errorf("%s: %d rows, %d active, %d inactive; want %d, %d, %d", verb, len(items), sum(items, "active"), sum(items, "inactive"), rows, active, inactive)
		}
		for _, format := range []string{"table", "wide"} {
			if text := s.must(verb, "-o", format); strings.Count(text, "\n") != rows+1 {
				s.t.Errorf("%s -o %s: want a head and %d rows:\n%s", verb, format, rows, text)
			}
		}
	}
	for _, srv := range s.Servers() {
		for _, v6 := range []bool{false, true} {
			addr := netip.AddrPortFrom(srv.Addr(v6), 8080).String()
			if text := s.must("backends"); strings.Count(text, addr+" ") != 2 {
				s.t.Errorf("backends: want two rows of %s:\n%s", addr, text)
			}
		}
	}
}

func TestCompletionKnowsTheServicesThatAreServed(t *testing.T) {
	s := started(t, 1, true)
	out, _, _ := s.verb("services", "-o", "json")
	var list struct{ Items []struct{ Name string } }
	if err := json.Unmarshal([]byte(out), &list); err != nil || len(list.Items) == 0 {
		t.Fatalf("services: %v\n%s", err, out)
	}
	b, err := exec.Command(waggle, "__complete", "backends", "--pin-path", s.pins, "--service", "").Output()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(b), list.Items[0].Name+"\n") {
		t.Errorf("no %s in the completions:\n%s", list.Items[0].Name, b)
	}
	script := `source <("$0" completion bash) && complete -p waggle`
	if out, err := exec.Command("bash", "-c", script, waggle).CombinedOutput(); err != nil {
		t.Errorf("bash does not take the completion: %v\n%s", err, out)
	}
}
