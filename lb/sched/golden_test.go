// SPDX-License-Identifier: Apache-2.0

package sched

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/waggle-lb/waggle/lb"
)

// The golden files are recordings of the Linux kernel's IPVS (6.12.117): each
// case is what ipvsadm was told and which server every connection then got.
type golden struct {
	Cases []goldenCase
}

type goldenCase struct {
	Name, Proto, Sched string
	VIP                string `json:"vip"`
	Flags              string `json:"sched_flags"`
	Steps              []step
}

type step struct {
	Op, Name string
	ID       int
	Dest     netip.AddrPort
	Weight   uint16
	Upper    uint32 `json:"u_thresh"`
	Lower    uint32 `json:"l_thresh"`
	Value    string
	Src, Dst netip.Addr
	SrcPort  uint16 `json:"sport"`
	Picked   string
	Hold     bool
	List     []counted
}

// counted is a row of /proc/net/ip_vs.
type counted struct {
	Dest             netip.AddrPort
	Weight           uint16
	Active, Inactive uint32
}

// replayed says of each file how many cases are replayed here, which are all, and
// how many connections they make.
var replayed = map[string][2]int{
	"rr": {29, 477}, "wrr": {29, 1358}, "lc": {8, 522}, "wlc": {9, 549}, "sed": {8, 270}, "nq": {7, 216},
	"sh": {9, 2564}, "dh": {2, 406}, "mh": {8, 2512},
}

// elsewhere are the files that need more than picks: flows and time. The
// dataplanes replay them.
var elsewhere = []string{"lifecycle", "persist", "timers"}

func TestPicksOfTheKernel(t *testing.T) {
	got := map[string][2]int{}
	for _, name := range Names() {
		for _, c := range readGolden(t, name).Cases {
			t.Run(c.Name, func(t *testing.T) {
				n := replay(t, c)
				got[name] = [2]int{got[name][0] + 1, got[name][1] + n}
			})
		}
	}
	if d := cmp.Diff(replayed, got); d != "" {
		t.Errorf("cases and connections replayed (-want +got):\n%s", d)
	}
	files, err := filepath.Glob(filepath.Join("testdata", "golden", "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range files {
		files[i] = strings.TrimSuffix(filepath.Base(f), ".json")
	}
	if d := cmp.Diff(slices.Sorted(slices.Values(append(Names(), elsewhere...))), files); d != "" {
		t.Errorf("recordings (-want +got):\n%s", d)
	}
}

func readGolden(t *testing.T, name string) golden {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "golden", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	var g golden
	if err := json.Unmarshal(b, &g); err != nil {
		t.Fatal(err)
	}
	return g
}

// world is a service, the run that stands for it, and the connections.
type world struct {
	t       *testing.T
	svc     *lb.Service
	run     *Run
	at      Position
	servers map[netip.AddrPort]*server
	conns   map[int]netip.AddrPort
	timed   bool // the case waited for connections to expire
}

func replay(t *testing.T, c goldenCase) (conns int) {
	flags, err := ParseFlags(c.Sched, strings.FieldsFunc(c.Flags, func(r rune) bool { return r == ',' }))
	if err != nil {
		t.Fatal(err)
	}
	w := &world{
		t: t, svc: &lb.Service{Scheduler: c.Sched, SchedulerFlags: flags},
		servers: map[netip.AddrPort]*server{}, conns: map[int]netip.AddrPort{},
		timed: slices.ContainsFunc(c.Steps, func(s step) bool { return s.Name == "expiry" }),
	}
	w.change(func(*lb.Service) {})
	for i, s := range c.Steps {
		if s.Op == "conn" {
			conns++
			if s.Dst == (netip.Addr{}) {
				s.Dst = netip.MustParseAddr(c.VIP)
			}
		}
		if err := w.do(s, c.Proto == "tcp"); err != nil {
			t.Fatalf("step %d: %s: %v", i, s.Op, err)
		}
	}
	return conns
}

func (w *world) change(f func(*lb.Service)) {
	svc := *w.svc
	svc.Backends = slices.Clone(svc.Backends)
	f(&svc)
	run, err := Compile(&svc, svc.Backends, w.run, w.at)
	if err != nil {
		w.t.Fatal(err)
	}
	w.svc, w.run, w.at = &svc, run, Position{Next: run.Start}
}

func (w *world) do(s step, tcp bool) error {
	at := indexOf(w.svc.Backends, s.Dest)
	b := lb.Backend{Addr: s.Dest, Weight: s.Weight, Upper: s.Upper, Lower: s.Lower}
	switch s.Op {
	case "add":
		w.change(func(svc *lb.Service) { svc.Backends = slices.Insert(svc.Backends, 0, b) })
		w.server(s.Dest).limit(s.Upper, s.Lower)
	case "edit":
		w.change(func(svc *lb.Service) { svc.Backends[at] = b })
		w.server(s.Dest).limit(s.Upper, s.Lower)
	case "del":
		w.change(func(svc *lb.Service) { svc.Backends = slices.Delete(svc.Backends, at, at+1) })
	case "svcedit":
		w.change(func(svc *lb.Service) { svc.Scheduler = strings.TrimPrefix(s.Value, "-s ") })
	case "conn":
		return w.connect(s, tcp)
	case "close":
		// of a deleted server's connections nothing is seen, so they stay active
		if addr := w.conns[s.ID]; indexOf(w.svc.Backends, addr) >= 0 {
			w.server(addr).finish()
		}
	case "list":
		return w.compare(s)
	default:
		return fmt.Errorf("unknown operation")
	}
	return nil
}

func (w *world) connect(s step, tcp bool) error {
	got := "none:refused"
	i, ok := w.run.Select(Packet{s.Src, s.Dst, s.SrcPort}, &w.at, w)
	if ok {
		addr := w.run.Backends[i].Addr
		got = addr.String()
		w.conns[s.ID] = addr
		w.server(addr).connect(tcp && s.Hold)
	}
	if got != s.Picked {
		return fmt.Errorf("picked %s, want %s", got, s.Picked)
	}
	return nil
}

// compare compares a recorded list with ours. In a case that waited for
// connections to expire, those that are no longer there have.
func (w *world) compare(s step) error {
	var got []counted
	for i, b := range w.svc.Backends {
		v := w.server(b.Addr)
		for w.timed && i < len(s.List) && v.inactive > s.List[i].Inactive {
			v.expire()
		}
		got = append(got, counted{b.Addr, b.Weight, v.active, v.inactive})
	}
	if d := cmp.Diff(s.List, got, cmpopts.EquateComparable(netip.AddrPort{})); d != "" {
		return fmt.Errorf("(-want +got):\n%s", d)
	}
	return nil
}

func (w *world) server(addr netip.AddrPort) *server {
	if w.servers[addr] == nil {
		w.servers[addr] = &server{}
	}
	return w.servers[addr]
}

// Usable and Load make the world a Table.
func (w *world) Usable(i int) bool {
	return w.svc.Backends[i].Usable() && !w.server(w.svc.Backends[i].Addr).overloaded
}

func (w *world) Load(i int) (active, inactive uint32) {
	v := w.server(w.svc.Backends[i].Addr)
	return v.active, v.inactive
}

// server counts connections, and knows when it has too many.
type server struct {
	active, inactive, upper, lower uint32
	overloaded                     bool
}

func (s *server) total() uint32 { return s.active + s.inactive }

// low is the number of connections from which it is no longer overloaded.
func (s *server) low() uint32 {
	if s.lower != 0 {
		return s.lower
	}
	return s.upper - s.upper/4
}

func (s *server) connect(active bool) {
	if active {
		s.active++
	} else {
		s.inactive++
	}
	if s.total() == s.upper {
		s.overloaded = true
	}
}

func (s *server) finish() { s.active, s.inactive = s.active-1, s.inactive+1 }

func (s *server) expire() {
	s.inactive--
	if s.upper != 0 && s.total()+1 == s.low() && s.total() < s.upper {
		s.overloaded = false
	}
}

// limit is what an edit does to thresholds: between the two nothing changes.
func (s *server) limit(upper, lower uint32) {
	if s.upper == upper && s.lower == lower {
		return
	}
	s.upper, s.lower = upper, lower
	switch n := s.total(); {
	case upper == 0 || n < s.low() && n < upper:
		s.overloaded = false
	case n >= upper:
		s.overloaded = true
	}
}
