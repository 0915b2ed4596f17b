// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"bytes"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/lb"
)

func load(active, inactive int64) dataplane.Load {
	return dataplane.Load{Active: active, Inactive: inactive}
}

func TestMiscounted(t *testing.T) {
	at := func(active, inactive int64, connections uint64) mark {
		return mark{load(active, inactive), connections}
	}
	for _, tc := range []struct {
		name          string
		before, after mark
		found         dataplane.Load
		difference    uint64
		quiet         bool
	}{
		{"as counted", at(3, 2, 9), at(3, 2, 9), load(3, 2), 0, true},
		{"nothing", at(0, 0, 9), at(0, 0, 9), load(0, 0), 0, true},
		{"one active flow less", at(3, 2, 9), at(3, 2, 9), load(2, 2), 1, true},
		{"the wrong state", at(3, 2, 9), at(3, 2, 9), load(2, 3), 2, true},
		{"below zero", at(-1, 0, 9), at(-1, 0, 9), load(0, 0), 1, true},
		{"one ended and one began", at(3, 2, 9), at(3, 2, 10), load(4, 2), 0, false},
		{"one ended and one began, both unseen", at(3, 2, 9), at(3, 2, 10), load(2, 2), 0, false},
		{"less than what was there all the time", at(3, 2, 9), at(3, 2, 10), load(1, 2), 1, false},
		{"more than there ever were", at(3, 2, 9), at(3, 2, 10), load(3, 6), 3, false},
		{"two ended, seen before", at(3, 2, 9), at(1, 2, 9), load(3, 2), 0, false},
		{"two ended, and one more is not there", at(3, 2, 9), at(1, 2, 9), load(1, 1), 1, false},
		{"state changes alone", at(3, 2, 9), at(2, 3, 9), load(3, 2), 0, false},
		{"state changes, and one is not there", at(3, 2, 9), at(2, 3, 9), load(2, 2), 1, false},
		{"the id went to another backend", at(3, 2, 9), at(0, 0, 1), load(3, 2), 0, false},
		{"flows moved here from another id", at(0, 0, 0), at(4, 0, 0), load(1, 0), 0, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			difference, quiet := miscounted(tc.before, tc.after, tc.found)
			if difference != tc.difference || quiet != tc.quiet {
				t.Errorf("difference %d, quiet %v; want %d, %v", difference, quiet, tc.difference, tc.quiet)
			}
		})
	}
}

// However flows come and go while they are counted one after the other, exact
// counts make no difference.
func TestExactCountsNeverDiffer(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for range 20_000 {
		var m mark // the counts of this moment
		table := make(map[int]bool)
		begin := func() {
			table[rng.IntN(40)] = true
			m.Active, m.connections = int64(len(table)), m.connections+1 // connections count at least what begins
		}
		for range rng.IntN(20) {
			begin()
		}
		before, churn := m, rng.IntN(4)
		var found dataplane.Load
		for place := range 40 {
			if table[place] {
				found.Active++
			}
			for range churn {
				if rng.IntN(2) == 0 {
					begin()
				} else {
					delete(table, rng.IntN(40))
				}
				m.Active = int64(len(table))
			}
		}
		if d, quiet := miscounted(before, m, found); d != 0 {
			t.Fatalf("before %+v, after %+v, found %+v: difference %d, quiet %v", before, m, found, d, quiet)
		}
	}
}

func TestALoadThatIsBelowZeroIsReadAsSuch(t *testing.T) {
	for _, want := range []dataplane.Load{load(0, 0), load(5, 7), load(-1, 3), load(2, -4), load(-3, -2)} {
		word := uint64(want.Active) + uint64(want.Inactive)<<32 // as add_load in bpf/flow.h adds
		if got := loadOf(bpf.LBBackendLoad{Active: uint32(word), Inactive: uint32(word >> 32)}); got != want {
			t.Errorf("%#x is read as %+v, want %+v", word, got, want)
		}
	}
}

func backendID(n int) lb.BackendID {
	return lb.BackendID{Service: lb.ServiceID{Name: "web", Family: lb.IPv4}, Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(n)}), 80)}
}

func TestADifferenceIsOneIfItIsSeenTwice(t *testing.T) {
	wrong := func(id uint32, difference uint64, atLeast bool) dataplane.Miscount {
		return dataplane.Miscount{Backend: backendID(int(id)), ID: id, Difference: difference, AtLeast: atLeast}
	}
	first := dataplane.Recount{Compared: 9, Wrong: []dataplane.Miscount{wrong(1, 5, false), wrong(2, 1, false), {ID: 3, Difference: 1}, wrong(5, 2, true)}}
	second := dataplane.Recount{Compared: 8, Skipped: 1, Difference: 99, Wrong: []dataplane.Miscount{
		wrong(1, 4, false), wrong(3, 1, false), wrong(4, 1, false), wrong(5, 6, true), wrong(6, 1, true),
	}}
	want := dataplane.Recount{Compared: 6, Skipped: 3, Difference: 6, Wrong: []dataplane.Miscount{wrong(1, 4, false), wrong(5, 2, true)}}
	sameID := cmp.Comparer(func(a, b lb.BackendID) bool { return a == b })
	again := second
	again.Wrong = slices.Clone(second.Wrong)
	if d := cmp.Diff(want, confirmed(&first, again, 0), sameID); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	want = dataplane.Recount{Compared: 5, Skipped: 4, Difference: 2, Wrong: []dataplane.Miscount{wrong(1, 2, true)}}
	if d := cmp.Diff(want, confirmed(&first, second, 2), sameID); d != "" {
		t.Errorf("with two sockets that moved (-want +got):\n%s", d)
	}
}

func TestSocketsThatMoveAreKnown(t *testing.T) {
	before := moves{1: 0, 2: 7, 3: 0, 4: 9, 5: 0xffff}
	later := moves{1: 0, 2: 8, 5: 0, 6: 3} // 3 never moved, 4 did, 6 is new
	if n := before.moved(later); n != 3 {
		t.Errorf("%d moved, want 2, 4 and 5", n)
	}
}

// What a walk does not meet cannot be told from what does not count.
func TestAWalkThatDoesNotMeetAllFindsNoLack(t *testing.T) {
	quiet := []mark{{}, {Load: load(5, 1), connections: 9}}
	for _, c := range []struct {
		all        bool
		found      dataplane.Load
		difference uint64
		compared   int
	}{
		{true, load(3, 1), 2, 1}, {false, load(3, 1), 0, 0}, {false, load(3, 2), 1, 0}, {false, load(5, 1), 0, 1}, {false, load(6, 1), 1, 1},
	} {
		got := (&census{names: map[uint32]lb.BackendID{1: backendID(1)}, before: quiet, after: quiet, found: []dataplane.Load{{}, c.found}, all: c.all}).compare()
		if got.Difference != c.difference || got.Compared != c.compared || got.Skipped != 1-c.compared {
			t.Errorf("all %v, found %+v: %+v, want a difference of %d", c.all, c.found, got, c.difference)
		}
	}
}

func TestEachDifferenceIsLoggedOnce(t *testing.T) {
	var out bytes.Buffer
	l := &auditLog{said: make(map[miscounter]uint64), log: slog.New(slog.NewTextHandler(&out, nil))}
	one := dataplane.Miscount{Backend: backendID(1), ID: 1, Counted: load(3, 0), Found: load(2, 1), Difference: 2}
	nobody := dataplane.Miscount{ID: 7, Counted: load(1, 0), Difference: 1}
	busy := dataplane.Miscount{Backend: backendID(2), ID: 2, Difference: 4, AtLeast: true}
	more := one
	more.Difference = 3
	busier := busy
	busier.Difference = 5
	for i, c := range []struct {
		wrong []dataplane.Miscount
		want  []string // words of each line
	}{
		{nil, nil},
		{[]dataplane.Miscount{one}, []string{"service=web/ipv4 backend=198.51.100.1:80 id=1 active=3 active_flows=2 inactive=0 inactive_flows=1"}},
		{[]dataplane.Miscount{one, nobody}, []string{"service=none backend=none id=7"}},
		{nil, nil},
		{[]dataplane.Miscount{busy, one, nobody}, []string{"id=2"}},
		{[]dataplane.Miscount{busier, more}, []string{"id=1"}},
	} {
		out.Reset()
		l.note(&dataplane.Recount{Wrong: c.wrong})
		lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
		if out.Len() == 0 {
			lines = nil
		}
		if len(lines) != len(c.want) {
			t.Fatalf("recount %d: %d lines, want %d:\n%s", i, len(lines), len(c.want), &out)
		}
		for k, want := range c.want {
			if !strings.Contains(lines[k], want) || !strings.Contains(lines[k], "report it") {
				t.Errorf("recount %d: %s\nhas no %q", i, lines[k], want)
			}
		}
	}
}

func TestTheLogNamesNoMoreThanAFew(t *testing.T) {
	var out bytes.Buffer
	l := &auditLog{said: make(map[miscounter]uint64), log: slog.New(slog.NewTextHandler(&out, nil))}
	var r dataplane.Recount
	for id := range uint32(auditSays + 5) {
		r.Wrong = append(r.Wrong, dataplane.Miscount{Backend: backendID(1), ID: id, Difference: 1})
	}
	l.note(&r)
	if n := strings.Count(out.String(), "\n"); n != auditSays+1 || !strings.Contains(out.String(), "backends=5") {
		t.Errorf("%d lines, want %d, of which the last names 5 more:\n%s", n, auditSays+1, &out)
	}
	out.Reset()
	if l.note(&r); out.Len() > 0 {
		t.Errorf("the same again is said again:\n%s", &out)
	}
}
