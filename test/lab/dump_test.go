// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package lab_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waggle-lb/waggle/internal/netlab"
)

// entry is what bpftool prints for one element of a map with types.
type entry struct{ Key, Value json.RawMessage }

func (s *scene) dump(name string) (entries []entry, text string) {
	s.t.Helper()
	out, err := exec.Command("bpftool", "map", "dump", "pinned", filepath.Join(s.pins, name)).Output()
	if err != nil {
		s.t.Fatalf("bpftool: %v", err)
	}
	if err := json.Unmarshal(out, &entries); err != nil {
		s.t.Fatalf("map %s is not printed by names: %v\n%.400s", name, err, out)
	}
	return entries, string(out)
}

// names returns the fields of a struct in the order in which they are printed,
// or "the id" for a plain number.
func names(raw json.RawMessage) string {
	if raw[0] != '{' {
		return "the id"
	}
	var out []string
	for _, m := range regexp.MustCompile(`"(\w+)":`).FindAllStringSubmatch(string(raw), -1) {
		if !strings.HasPrefix(m[1], "pad") {
			out = append(out, m[1])
		}
	}
	return strings.Join(out, " ")
}

func readDoc(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("../..", path))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestBpftoolShowsTheFieldsThatTheDocsExplain(t *testing.T) {
	s := started(t, 1, true)
	s.hold(1)
	doc := readDoc(t, "docs/maps.md")
	for _, name := range []string{"flows", "config/vips", "config/services", "config/backends"} {
		entries, _ := s.dump(name)
		row := fmt.Sprintf("| %s | %s | %s |\n", name, names(entries[0].Key), names(entries[0].Value))
		if !strings.Contains(doc, row) {
			t.Errorf("docs/maps.md has no row\n%s", row)
		}
	}
}

var fieldName = regexp.MustCompile(`"\w+":`)

func TestTheReadmesDumpIsWhatBpftoolPrints(t *testing.T) {
	s := started(t, 1, true)
	s.hold(1)
	readme := readDoc(t, "README.md")
	start := strings.Index(readme, "    [{\n")
	if start < 0 {
		t.Fatal("the README shows no dump")
	}
	block, _, _ := strings.Cut(readme[start:], "\n\n")
	_, got := s.dump("flows")
	if diff := cmp.Diff(fieldName.FindAllString(block, -1), fieldName.FindAllString(got, -1)); diff != "" {
		t.Errorf("fields of one flow (-README +bpftool):\n%s", diff)
	}
	for _, m := range fieldName.FindAllString(block, -1) {
		name := strings.Trim(m, `":`)
		explained := regexp.MustCompile(`(?m)^\| (\w+, )*` + name + `(, \w+)* \|`).MatchString(readme)
		if !explained && name != "key" && name != "value" && name != "pad" {
			t.Errorf("the README does not explain %s", name)
		}
	}
}

func address(a netip.Addr) []int {
	var out []int
	for _, b := range a.As16() {
		out = append(out, int(b))
	}
	return out
}

// What the README says about the numbers, for a flow whose ends are known.
func TestADumpedFlowSaysWhatTheReadmeSays(t *testing.T) {
	s := started(t, 1, true)
	c := s.hold(1)[0]
	client := netip.MustParseAddrPort(c.LocalAddr().String())
	backend := netip.AddrPortFrom(s.Servers()[0].V4, 8080)
	type key struct {
		Saddr, Daddr                  []int
		Sport, Dport, Proto, Position int
	}
	type value struct {
		Addr                 []int
		Port, State, Packets int
		Hash                 uint64 `json:"backend_hash"`
	}
	entries, _ := s.dump("flows")
	if len(entries) != 2 {
		t.Fatalf("%d entries, want the two of one flow", len(entries))
	}
	hashes := map[uint64]bool{}
	for _, e := range entries {
		var k key
		var v value
		if err := json.Unmarshal(e.Key, &k); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(e.Value, &v); err != nil {
			t.Fatal(err)
		}
		wantKey := key{address(client.Addr()), address(netlab.VIP4), int(client.Port()), 80, 6, 1}
		wantAddr, wantPort, wantState := address(backend.Addr()), 8080, 1
		if k.Position == 4 {
			wantKey = key{address(backend.Addr()), address(client.Addr()), 8080, int(client.Port()), 6, 4}
			wantAddr, wantPort, wantState = address(netlab.VIP4), 80, 12
		}
		if diff := cmp.Diff(wantKey, k); diff != "" {
			t.Errorf("key (-want +got):\n%s", diff)
		}
		if !cmp.Equal(wantAddr, v.Addr) || v.Port != wantPort || v.State != wantState || v.Packets < 2 {
			t.Errorf("position %d becomes %v %d, state %d, %d packets; want %v %d, %d", k.Position, v.Addr, v.Port, v.State, v.Packets, wantAddr, wantPort, wantState)
		}
		hashes[v.Hash] = true
	}
	backends, _ := s.dump("config/backends")
	for _, b := range backends {
		var v struct{ Hash uint64 }
		if err := json.Unmarshal(b.Value, &v); err != nil {
			t.Fatal(err)
		}
		if v.Hash != 0 {
			delete(hashes, v.Hash)
		}
	}
	if len(hashes) != 0 {
		t.Errorf("no backend has the hash of the flow: %v", hashes)
	}
}
