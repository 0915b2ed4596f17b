// SPDX-License-Identifier: Apache-2.0

package sched

import (
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waggle-lb/waggle/lb"
)

// The golden files are recordings of the Linux kernel's IPVS (6.12.117): each
// case is what ipvsadm was told and which server every connection then got.
type golden struct {
	Cases []struct {
		Name  string
		Sched string
		Steps []step
	}
}

type step struct {
	Op     string
	Dest   netip.AddrPort
	Weight uint16
	Upper  int `json:"u_thresh"`
	Value  string
	Picked string
	List   []struct {
		Dest   netip.AddrPort
		Weight uint16
	}
}

// thresholds are the cases that need what is not there: a limit of connections
// for each server.
var thresholds = []string{
	"rr-overload-raise-u-inside-hysteresis", "rr-overload-edit-weight-only", "rr-overload-expiry-u4-l1",
	"rr-overload-expiry-u8-l0", "wrr-all-overload",
}

func TestPicksOfTheKernel(t *testing.T) {
	var excluded []string
	for _, name := range Names() {
		b, err := os.ReadFile(filepath.Join("testdata", "golden", name+".json"))
		if err != nil {
			t.Fatal(err)
		}
		var g golden
		if err := json.Unmarshal(b, &g); err != nil {
			t.Fatal(err)
		}
		for _, c := range g.Cases {
			if slices.ContainsFunc(c.Steps, func(s step) bool { return s.Upper != 0 }) {
				excluded = append(excluded, c.Name)
				continue
			}
			t.Run(c.Name, func(t *testing.T) { replay(t, c.Sched, c.Steps) })
		}
	}
	if d := cmp.Diff(thresholds, excluded); d != "" {
		t.Errorf("cases left out for their thresholds (-want +got):\n%s", d)
	}
}

func replay(t *testing.T, name string, steps []step) {
	var list []lb.Backend
	var run *Run
	var picks uint64
	compile := func() {
		r, err := Compile(name, list, run, picks)
		if err != nil {
			t.Fatal(err)
		}
		run, picks = r, 0
	}
	compile()
	for i, s := range steps {
		at := indexOf(list, s.Dest)
		list = slices.Clone(list)
		switch s.Op {
		case "add":
			list = slices.Insert(list, 0, lb.Backend{Addr: s.Dest, Weight: s.Weight})
			compile()
		case "edit":
			list[at].Weight = s.Weight
			compile()
		case "del":
			list = slices.Delete(list, at, at+1)
			compile()
		case "svcedit":
			name = strings.TrimPrefix(s.Value, "-s ")
			compile()
		case "conn":
			got := "none:refused"
			if j, ok := run.Pick(picks); ok {
				got = run.Backends[j].Addr.String()
				picks++
			}
			if got != s.Picked {
				t.Fatalf("step %d: picked %s, want %s", i, got, s.Picked)
			}
		case "list":
			for j, l := range s.List {
				if j >= len(list) || list[j].Addr != l.Dest || list[j].Weight != l.Weight {
					t.Fatalf("step %d: list %v, want %v", i, list, s.List)
				}
			}
		case "close", "send", "sleep": // of no consequence to these schedulers
		default:
			t.Fatalf("step %d: unknown operation %q", i, s.Op)
		}
	}
}
