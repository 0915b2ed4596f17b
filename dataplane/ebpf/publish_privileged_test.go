// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package ebpf

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/maps/services"
)

// `make soak` makes the test longer, and asserts the rate.
var publishPicks = flag.Int64("picks", 240_000, "how many new flows are opened while sets of backends follow one another")

const (
	shortPicks  = 240_000
	publishRate = 10_000           // sets a second that the long form must reach
	rowLength   = 60_000           // servers: so many that an id rests before its server is back
	mostServers = 9                // of a set
	phaseLimit  = 10 * time.Minute // with one scheduler
	patience    = 20 * time.Second
)

// sets are the backends of a service, one set after another. Set i has the i-th
// server of a row and up to eight that follow, so that each brings and takes
// away some.
type sets struct {
	scheduler string
	flags     lb.SchedulerFlags
	family    lb.Family
	vip       int
	// begun and done are the last set whose Apply was begun, and that was
	// published: while they differ both the last and the new one are right.
	begun, done atomic.Int64
	// waits counts how often a change was too early: a map was full of what
	// rests.
	waits int64
	again *again
	// breakIt is called with the number of a set that was just published.
	breakIt func(set int64)
}

func (s *sets) String() string { return s.scheduler + " " + s.family.String() }

// size is how many servers set i has.
func size(i int64) int64 { return 1 + int64(uint32(i)*2654435761>>16)%mostServers }

// quiesces says that the first server of a set, which the next does not have,
// gets nothing new already. sh and mh without fallback would refuse its clients.
func (s *sets) quiesces(i int64) bool { return s.scheduler != "mh" && size(i) > 2 }

// has says whether a server may be picked from a set that was seen between two
// readings of done and begun.
func (s *sets) has(server int64, done, begun int64) bool {
	for i := done; i <= begun; i++ {
		at := ((server-i)%rowLength + rowLength) % rowLength
		if at < size(i) && (at > 0 || !s.quiesces(i)) {
			return true
		}
	}
	return false
}

// service has set i.
func (s *sets) service(i int64) *lb.Service {
	svc := &lb.Service{
		ID: lb.ServiceID{Name: "web", Family: s.family}, Scheduler: s.scheduler, SchedulerFlags: s.flags,
		Frontends: []lb.Frontend{{Addr: ofFamily(s.family, vipAt(s.vip)), Protocol: lb.TCP}},
	}
	for n := range size(i) {
		server := (i + n) % rowLength
		b := lb.Backend{Addr: ofFamily(s.family, serverAt(1+int(server))), Weight: uint16(1 + server%3)}
		if n == 0 && s.quiesces(i) {
			b.Weight = 0
		}
		svc.Backends = append(svc.Backends, b)
	}
	if i%2 == 1 {
		slices.Reverse(svc.Backends)
	}
	return svc
}

// ofFamily is the address itself, or one of IPv6 that ends like it.
func ofFamily(f lb.Family, a netip.AddrPort) netip.AddrPort {
	if f == lb.IPv4 {
		return a
	}
	b := a.Addr().As4()
	return netip.AddrPortFrom(netip.AddrFrom16([16]byte{0: 0xfd, 12: b[0], b[1], b[2], b[3]}), a.Port())
}

// publish applies one set after another until it is stopped. The pickers take
// what time it leaves them: how fast sets follow is what makes the test.
func (s *sets) publish(r *rig, stop *atomic.Bool) error {
	const ahead = -10      // of others, in the order of nice(2)
	runtime.LockOSThread() // the thread, which it is of, ends with the goroutine
	if err := unix.Setpriority(unix.PRIO_PROCESS, 0, ahead); err != nil {
		return fmt.Errorf("go ahead of the pickers: %w", err)
	}
	for i := s.done.Load() + 1; !stop.Load(); i++ {
		svc := s.service(i)
		snap, err := lb.NewSnapshot(svc)
		if err != nil {
			return err
		}
		s.begun.Store(i)
		rep := r.d.Apply(snap)
		for full := new(FullError); errors.As(rep.Failed[svc.ID], &full) && !stop.Load(); rep = r.d.Apply(snap) {
			s.waits++
			time.Sleep(time.Millisecond)
		}
		if err := errors.Join(rep.Err, rep.Failed[svc.ID]); err != nil {
			if full := new(FullError); errors.As(err, &full) {
				return nil
			}
			return err
		}
		s.done.Store(i)
		s.again.note(r, svc)
		if s.breakIt != nil {
			s.breakIt(i)
		}
	}
	return nil
}

// again counts what was used again.
type again struct {
	runs, ids atomic.Int64
	bases     map[uint32]bool
	owners    map[uint32]uint64 // of ids, by their hash
}

func newAgain() *again { return &again{bases: make(map[uint32]bool), owners: make(map[uint32]uint64)} }

func (a *again) both() bool { return a.runs.Load() > 0 && a.ids.Load() > 0 }

// note looks at the run of a service that was just published, and at the id of
// one of its backends.
func (a *again) note(r *rig, svc *lb.Service) {
	r.d.mu.Lock()
	defer r.d.mu.Unlock()
	rec := r.d.state.records[svc.ID.Hash()]
	if base := rec.pools[0].at.pool.Base; a.bases[base] {
		a.runs.Add(1)
	} else {
		a.bases[base] = true
	}
	b := r.d.state.withHash(lb.BackendHash(rec.hash, svc.Backends[len(svc.Backends)-1].Addr))
	if owner := a.owners[b.id]; owner != b.hash {
		a.owners[b.id] = b.hash
		if owner != 0 {
			a.ids.Add(1)
		}
	}
}

// phase has pickers open flows while sets follow one another, until enough says
// that it is enough.
func (s *sets) phase(r *rig, pickers []*picker, enough func(picks int64) bool) (took time.Duration) {
	r.t.Helper()
	r.apply(s.service(1))
	s.begun.Store(1)
	s.done.Store(1)
	r.follow()
	ctx, cancel := context.WithCancel(r.t.Context())
	defer cancel()
	var stop atomic.Bool
	var all errgroup.Group
	before := total(pickers).picks
	begin := time.Now()
	for _, p := range pickers {
		all.Go(func() error { return p.pick(r.ingress, s, &stop) })
	}
	all.Go(func() error { return s.publish(r, &stop) })
	all.Go(func() error {
		for ctx.Err() == nil { // ids are given back
			if err := r.d.sweep(ctx, nil); err != nil {
				return err
			}
			if pause(ctx, time.Second) != nil {
				return nil
			}
		}
		return nil
	})
	for !enough(total(pickers).picks-before) && time.Since(begin) < phaseLimit {
		time.Sleep(5 * time.Millisecond)
	}
	took = time.Since(begin)
	stop.Store(true)
	cancel()
	r.do(all.Wait())
	return took
}

// publishedSets are the services of the test: every rule, every scheduler whose
// runs differ, both families.
func publishedSets() (all []*sets) {
	again := newAgain()
	for _, f := range []lb.Family{lb.IPv4, lb.IPv6} {
		for i, name := range []string{"rr", "wrr", "lc", "wlc", "sh", "mh"} {
			s := &sets{scheduler: name, family: f, vip: 1 + i, again: again}
			if name == "sh" {
				s.flags = lb.SchedulerFallback
			}
			all = append(all, s)
		}
	}
	return all
}

// publishRoom is for what rests for a second: the runs and ids of 20,000 sets,
// tables of mh too.
var publishRoom = map[string]uint32{
	"flows": 1 << 17, "half_open": 1 << 15, "slots": 1 << 22, "backends": 1 << 16, "load": 1 << 16, "backend_ids": 1 << 16,
}

// A set is published by one store: while sets follow one another as fast as they
// can, every new client reaches a server of the set before or of the set after,
// and none is refused or dropped. It lasts longer than the grace period, so
// that runs and ids are used again.
func TestPicksAreOfTheSetBeforeOrAfter(t *testing.T) {
	r := newRig(t, publishRoom)
	all := publishedSets()
	again := all[0].again
	pickers := map[lb.Family][]*picker{lb.IPv4: newPickers(t, lb.IPv4), lb.IPv6: newPickers(t, lb.IPv6)}
	var picks, changes int64
	for i, s := range all {
		before := total(pickers[s.family])
		took := s.phase(r, pickers[s.family], func(n int64) bool {
			return n >= *publishPicks/int64(len(all)) && s.done.Load() >= 100 && (i < len(all)-1 || again.both())
		})
		got := total(pickers[s.family]).less(before)
		rate := float64(s.done.Load()) / took.Seconds()
		t.Logf("%-8s %8d picks, %d wrong, %.2f %% of them judged by two sets at most; %7d sets, %6.0f a second, too early %d times",
			s, got.picks, got.wrong, 100*float64(got.sharp)/float64(got.picks), s.done.Load(), rate, s.waits)
		if got.wrong > 0 {
			t.Errorf("%s: %d of %d clients went wrong: %v", s, got.wrong, got.picks, got.first)
		}
		if *publishPicks > shortPicks && s.scheduler != "mh" && rate < publishRate {
			t.Errorf("%s: %.0f sets a second, want %d", s, rate, publishRate)
		}
		picks, changes = picks+got.picks, changes+s.done.Load()
	}
	t.Logf("%d picks, %d sets, %d runs and %d ids were used again", picks, changes, again.runs.Load(), again.ids.Load())
	if !again.both() {
		t.Error("runs and ids were not used again; the test shows nothing")
	}
	r.wantNoDrops()
}

// wantNoDrops allows what makes room for newer clients: these never go on.
func (r *rig) wantNoDrops() {
	r.t.Helper()
	c, err := r.d.Counters()
	r.do(err)
	delete(c.Drops, "displaced")
	if len(c.Drops) > 0 {
		r.t.Errorf("drops %v", c.Drops)
	}
}

// The test of the test: a set that was published before is published again, or
// one before its run was written, for a fraction of a millisecond each.
func TestWhatIsPublishedWronglyIsFound(t *testing.T) {
	for _, c := range []struct {
		name string
		word func(r *rig, before services.Pool) services.Pool
	}{
		{"an old set", func(_ *rig, before services.Pool) services.Pool { return before }},
		{"a run that is not written", func(r *rig, before services.Pool) services.Pool {
			before.Base = r.entries["slots"] - 64
			return before
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, publishRoom)
			s := publishedSets()[0]
			var before services.Pool
			s.breakIt = func(set int64) {
				r.d.mu.Lock()
				defer r.d.mu.Unlock()
				table, index := r.d.state.t.services, r.d.state.records[lb.ServiceID{Name: "web", Family: s.family}.Hash()].index
				now := table.Pool(index, lb.Cluster)
				if set%64 == 0 {
					table.Publish(index, lb.Cluster, c.word(r, before))
					time.Sleep(200 * time.Microsecond)
					table.Publish(index, lb.Cluster, now)
				}
				if set%64 == 32 {
					before = now
				}
			}
			pickers := newPickers(t, s.family)
			begin := time.Now()
			s.phase(r, pickers, func(int64) bool { return total(pickers).wrong > 0 || time.Since(begin) > patience })
			if got := total(pickers); got.wrong == 0 {
				t.Errorf("%d picks of %d sets found nothing", got.picks, s.done.Load())
			}
		})
	}
}

// A frontend that moves from service to service leads to the one or the other.
func TestAFrontendThatMovesAlwaysLeadsToAService(t *testing.T) {
	r := newRig(t, map[string]uint32{"flows": 1 << 17, "half_open": 1 << 16, "slots": 1 << 20})
	snaps := [2]*lb.Snapshot{
		r.snapshot(serve("a", []int{1}, 1, 3), serve("b", []int{2}, 2)),
		r.snapshot(serve("a", []int{1}, 2), serve("b", []int{2}, 1, 3)),
	}
	r.apply(serve("a", []int{1}, 1, 3), serve("b", []int{2}, 2))
	r.follow()
	syns := newSYNs(t, lb.IPv4, 0)
	syns.aim(vipAt(1).Addr())
	var stop atomic.Bool
	var swaps int
	failed := make(chan error, 1)
	go func() {
		for ; !stop.Load(); swaps++ {
			if rep := r.d.Apply(snaps[swaps&1]); rep.Err != nil || len(rep.Failed) > 0 {
				failed <- errors.Join(rep.Err, fmt.Errorf("failed: %v", rep.Failed))
				return
			}
		}
		failed <- nil
	}()
	seen := map[int]int{}
	for n := 0; n < 20_000 || len(seen) < 2 && n < 60_000; n++ {
		server, err := syns.send(r.ingress)
		if err != nil || server < 1 {
			t.Errorf("client %d went to %d, error %v", n, server, err)
			break
		}
		seen[server]++
	}
	stop.Store(true)
	r.do(<-failed)
	if len(seen) != 2 || seen[1] == 0 || seen[2] == 0 || swaps < 100 {
		t.Errorf("servers %v in %d swaps, want 1 and 2", seen, swaps)
	}
}
