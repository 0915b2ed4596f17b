// SPDX-License-Identifier: Apache-2.0

package sched

import (
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waggle-lb/waggle/lb"
)

func backend(n int, weight uint16) lb.Backend {
	addr := netip.AddrFrom4([4]byte{198, 19, byte(n >> 8), byte(n)})
	return lb.Backend{Addr: netip.AddrPortFrom(addr, 8080), Weight: weight}
}

func netipWithPort(a netip.AddrPort, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr(), port)
}

func service(scheduler string, backends ...lb.Backend) *lb.Service {
	return &lb.Service{ID: lb.ServiceID{Name: "web", Family: lb.IPv4}, Scheduler: scheduler, Backends: backends}
}

func compile(t testing.TB, svc *lb.Service, prev *Run, at Position) *Run {
	t.Helper()
	run, err := Compile(svc, svc.Backends, prev, at)
	if err != nil {
		t.Fatal(err)
	}
	return run
}

// idle is a Table in which all that is usable serves.
type idle []lb.Backend

func (l idle) Usable(i int) bool                  { return l[i].Usable() }
func (l idle) Load(int) (active, inactive uint32) { return 0, 0 }

// picks are the next n of a run that stands at at.
func picks(r *Run, at Position, n int) []int {
	out := make([]int, n)
	for k := range out {
		out[k], _ = r.Select(Packet{}, &at, idle(r.Backends))
	}
	return out
}

func TestAScheduleGoesOnAfterNothingChanged(t *testing.T) {
	for _, name := range []string{"rr", "wrr"} {
		svc := service(name, backend(4, 0), backend(3, 2), backend(2, 3), backend(1, 4))
		whole := compile(t, svc, nil, Position{})
		at := Position{Next: whole.Start}
		for n := range 25 {
			want := picks(whole, at, 20)
			for what, prev := range map[string]*Run{"": whole, " in another process": Restore(svc, svc.Backends, nil)} {
				run := compile(t, svc, prev, at)
				if got := picks(run, Position{Next: run.Start}, 20); !slices.Equal(got, want) {
					t.Fatalf("%s%s: after %d picks %v, want %v", name, what, n, got, want)
				}
			}
			whole.Select(Packet{}, &at, idle(svc.Backends))
		}
	}
}

// A backend that is not healthy is one of weight 0, but mh remembers its weight.
func TestUnhealthyIsWeightZero(t *testing.T) {
	sick := []lb.Backend{backend(3, 2), backend(2, 5), backend(1, 4)}
	quiet := slices.Clone(sick)
	sick[1].Unhealthy, quiet[1].Weight = true, 0
	for _, name := range Names() {
		before := compile(t, service(name, backend(3, 2), backend(2, 5), backend(1, 4)), nil, Position{})
		got, want := compile(t, service(name, sick...), before, Position{}), compile(t, service(name, quiet...), before, Position{})
		if !slices.Equal(got.Slots, want.Slots) || got.Start != want.Start {
			t.Errorf("%s: %v from %d, want %v from %d", name, got.Slots, got.Start, want.Slots, want.Start)
		}
	}
}

// What stands in the kernel's pool word.
func TestRulesAndFlags(t *testing.T) {
	type word struct {
		Rule  Rule
		Flags Flags
		Slots int
	}
	want := map[string]word{
		"rr": {Cursor, 0, 2}, "wrr": {Cursor, CursorPasses, 5}, "lc": {Least, 0, 2}, "wlc": {Least, LeastWeighted, 2},
		"sed": {Least, LeastWeighted | LeastExpected, 2}, "nq": {Least, LeastWeighted | LeastExpected | LeastIdle, 2},
		"sh": {Hash, HashPort | HashFallback, 256}, "dh": {Hash, HashDest, 256}, "mh": {Hash, HashPort | HashFallback | HashSip, 4093},
	}
	got := map[string]word{}
	for _, name := range Names() {
		svc := service(name, backend(3, 0), backend(2, 2), backend(1, 3))
		if s, _ := Find(name); s.Flags != 0 {
			svc.SchedulerFlags = lb.SchedulerPort | lb.SchedulerFallback
		}
		run := compile(t, svc, nil, Position{})
		got[name] = word{run.Rule, run.Flags, len(run.Slots)}
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestNobodyToPick(t *testing.T) {
	for _, name := range Names() {
		for _, list := range [][]lb.Backend{nil, {backend(1, 0)}} {
			run := compile(t, service(name, list...), nil, Position{})
			at := Position{Next: run.Start}
			if i, ok := run.Select(Packet{}, &at, idle(list)); ok || at != (Position{Next: run.Start}) {
				t.Errorf("%s picks %d of %v, and stands at %v", name, i, list, at)
			}
		}
	}
}

func TestFlagNames(t *testing.T) {
	both := lb.SchedulerFallback | lb.SchedulerPort
	for _, name := range []string{"sh", "mh"} {
		words := FlagNames(name, both)
		if !slices.Equal(words, []string{name + "-fallback", name + "-port"}) {
			t.Error(words)
		}
		if f, err := ParseFlags(name, words); err != nil || f != both {
			t.Errorf("%v: %v, %v", words, f, err)
		}
	}
	if f, err := ParseFlags("rr", nil); err != nil || f != 0 || FlagNames("rr", 0) != nil {
		t.Errorf("rr: %v, %v", f, err)
	}
	for _, c := range [][3]string{
		{"sh", "mh-port", `scheduler "sh" has no flag "mh-port": it takes sh-fallback and sh-port`},
		{"dh", "sh-port", `scheduler "dh" has no flag "sh-port": it takes none`},
		{"no", "sh-port", `unknown scheduler "no": write one of rr, wrr, lc, wlc, sed, nq, sh, dh, mh`},
	} {
		if _, err := ParseFlags(c[0], []string{c[1]}); err == nil || err.Error() != c[2] {
			t.Errorf("%v, want %s", err, c[2])
		}
	}
}

func TestCompileRefuses(t *testing.T) {
	for want, svc := range map[string]*lb.Service{
		`scheduler "wrr" has no flag "wrr-port": it takes none`:              {Scheduler: "wrr", SchedulerFlags: lb.SchedulerPort},
		`scheduler "mh" has no flag "0x8": it takes mh-fallback and mh-port`: {Scheduler: "mh", SchedulerFlags: 8},
		`service web/ipv4 has 65536 backends: at most 65535`:                 service("rr", make([]lb.Backend, 65536)...),
	} {
		if _, err := Compile(svc, svc.Backends, nil, Position{}); err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

func TestUnknownSchedulersAreNamed(t *testing.T) {
	for name, want := range map[string]string{
		"twos": `scheduler "twos" is not supported: the nearest is wlc, which compares all backends, not two of them`,
		"foo":  `unknown scheduler "foo": write one of rr, wrr, lc, wlc, sed, nq, sh, dh, mh`,
	} {
		_, err := Find(name)
		var unknown *UnknownError
		if !errors.As(err, &unknown) || unknown.Name != name || err.Error() != want {
			t.Errorf("%s: %v, want %s", name, err, want)
		}
	}
	for name := range nearest {
		if _, err := Find(name); err == nil {
			t.Errorf("%s is there", name)
		}
	}
}

func BenchmarkCompileLargest(b *testing.B) {
	var list []lb.Backend
	for i := range MaxBackends {
		list = append(list, backend(i, uint16(1+i*7919%65535)))
	}
	after := slices.Clone(list)
	after[5].Weight++
	for _, name := range Names() {
		run := compile(b, service(name, list...), nil, Position{})
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				compile(b, service(name, after...), run, Position{Next: run.Start + 1})
			}
		})
	}
}

func BenchmarkCompileSmall(b *testing.B) {
	list := []lb.Backend{backend(1, 1), backend(2, 1), backend(3, 1)}
	for _, name := range Names() {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				compile(b, service(name, list...), nil, Position{})
			}
		})
	}
}
