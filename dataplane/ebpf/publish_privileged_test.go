// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package ebpf

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	cilium "github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/internal/packet"
	"github.com/waggle-lb/waggle/lb"
)

// syns sends SYNs of clients that all differ, faster than rig.Send does.
type syns struct {
	prog  *cilium.Program
	frame []byte
	out   []byte
	n     uint32
}

func newSYNs(t *testing.T, prog *cilium.Program, vip int) *syns {
	t.Helper()
	frame, err := packet.Packet{Src: clientAt(1), Dst: vipAt(vip), Protocol: lb.TCP, Flags: packet.SYN}.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return &syns{prog: prog, frame: frame, out: make([]byte, 512)}
}

// send returns the server's number; not above 0 if the packet did not go on to
// one.
func (s *syns) send() (server int, err error) {
	const saddr, daddr, dport = 14 + 12, 14 + 16, 14 + 20 + 2
	s.n++
	// 10.x.y.z; checksums are only updated
	binary.BigEndian.PutUint32(s.frame[saddr:], 10<<24|s.n)
	opts := cilium.RunOptions{Data: s.frame, DataOut: s.out}
	ret, err := s.prog.Run(&opts)
	if err != nil || int32(ret) != -1 {
		return -1, err
	}
	b := opts.DataOut
	if b[daddr] != 198 || b[daddr+1] != 19 || binary.BigEndian.Uint16(b[dport:]) != 8080 {
		return 0, nil
	}
	return int(binary.BigEndian.Uint16(b[daddr+2:])), nil
}

// sets are the backends of a service, one set after another.
type sets struct {
	servers [][]int
	// begun and done count the sets whose Apply was begun, and that were
	// published: while they differ both the last and the new one are right.
	begun, done atomic.Int64
}

// has says whether a server was in a set that was seen between two readings of
// done and begun.
func (s *sets) has(server int, done, begun int64) bool {
	return slices.ContainsFunc(s.servers[done-1:begun], func(set []int) bool { return slices.Contains(set, server) })
}

func randomSets(n int) *sets {
	random := rand.New(rand.NewPCG(5, 6))
	s := &sets{}
	for range n {
		set := random.Perm(60)[:1+random.IntN(9)]
		for i := range set {
			set[i]++
		}
		s.servers = append(s.servers, set)
	}
	return s
}

// publish applies one set after another until it is stopped or all are applied.
func (s *sets) publish(d *Dataplane, stop *atomic.Bool) error {
	for i := int(s.done.Load()); i < len(s.servers) && !stop.Load(); i++ {
		snap, err := lb.NewSnapshot(serve("web", s.servers[i], 1))
		if err != nil {
			return err
		}
		s.begun.Add(1)
		rep := d.Apply(snap)
		for full := new(FullError); errors.As(rep.Failed[lb.ServiceID{Name: "web", Family: lb.IPv4}], &full); rep = d.Apply(snap) {
			time.Sleep(time.Millisecond) // until runs have rested: it was too fast
		}
		if rep.Err != nil {
			return rep.Err
		}
		for _, err := range rep.Failed {
			return err
		}
		s.done.Add(1)
	}
	return nil
}

// hasRested reports whether a run has rested for long enough.
func (r *rig) hasRested() bool {
	r.d.mu.Lock()
	defer r.d.mu.Unlock()
	return len(r.d.state.space.free) > 0
}

// A set is published by one store: while sets follow one another as fast as they
// can, every new client reaches a server of the set before or of the set after,
// and none is refused or dropped. It lasts longer than the grace period, so
// that runs are used again.
func TestPicksAreOfTheSetBeforeOrAfter(t *testing.T) {
	r := newRig(t, map[string]uint32{"flows": 1 << 19, "half_open": 1 << 18, "slots": 1 << 20})
	s := randomSets(1 << 18)
	r.apply(serve("web", s.servers[0], 1))
	s.begun.Store(1)
	s.done.Store(1)
	r.follow()
	syns := newSYNs(t, r.ingress, 1)
	var stop atomic.Bool
	failed := make(chan error, 1)
	go func() { failed <- s.publish(r.d, &stop) }()
	reused := 0 // clients when a run had rested
	const enough, most = 30_000, 250_000
	n := 0
	for ; n < most && (reused == 0 || n < reused+enough); n++ {
		done := s.done.Load()
		server, err := syns.send()
		begun := s.begun.Load()
		if err != nil || !s.has(server, done, begun) {
			t.Errorf("client %d went to %d, error %v, want one of %v", n, server, err, s.servers[done-1:begun])
			break
		}
		// on a fast machine the clients would run out before a run has rested
		for late := time.Now().Add(20 * time.Second); n == most/2 && !r.hasRested() && time.Now().Before(late); {
			time.Sleep(time.Millisecond)
		}
		if reused == 0 && n%1000 == 0 && r.hasRested() {
			reused = n
		}
	}
	stop.Store(true)
	r.do(<-failed)
	if published := s.done.Load(); published < 1000 || reused == 0 {
		t.Errorf("%d sets were published meanwhile, runs used again: %v; the test shows nothing", published, reused > 0)
	}
	c, err := r.d.Counters()
	r.do(err)
	if len(c.Drops) > 0 {
		t.Errorf("drops %v", c.Drops)
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
	syns := newSYNs(t, r.ingress, 1)
	var stop atomic.Bool
	var swaps int
	failed := make(chan error, 1)
	go func() {
		for ; !stop.Load(); swaps++ {
			if rep := r.d.Apply(snaps[swaps&1]); rep.Err != nil || len(rep.Failed) > 0 {
				failed <- rep.Err
				return
			}
		}
		failed <- nil
	}()
	seen := map[int]int{}
	for n := 0; n < 20_000 || len(seen) < 2 && n < 60_000; n++ {
		server, err := syns.send()
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
