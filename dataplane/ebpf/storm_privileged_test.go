// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package ebpf

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	cilium "github.com/cilium/ebpf"
	"golang.org/x/sync/errgroup"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/internal/packet"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/maps/batch"
	"github.com/waggle-lb/waggle/maps/info"
	"github.com/waggle-lb/waggle/maps/stats"
)

// `make soak` makes storms longer.
var (
	stormFlows = flag.Uint64("flows", 200_000, "how many flows the storm of one sender opens")
	stormTime  = flag.Duration("together", 4*time.Second, "how long a storm of many senders lasts")
	stormSeed  = flag.Uint64("seed", 0, "repeat this storm; 0: a new one")
)

const (
	stormTalks    = 40_000 // tuples: far fewer than flows, so that tuples come back
	stormServices = 6
	stormServers  = 12 // of each service, not all at a time
	stormNode     = 250
)

// end is one end of a packet, of IPv4.
type end struct {
	addr [4]byte
	port uint16
}

func endOf(a netip.AddrPort) end { return end{a.Addr().As4(), a.Port()} }

// wire sends packets by test runs, each in the same frame. One goroutine.
type wire struct {
	ingress, egress *cilium.Program
	frames          map[lb.Protocol][]byte
	out             [128]byte
	opts            cilium.RunOptions
}

func newWire(r *rig) *wire {
	w := &wire{frames: make(map[lb.Protocol][]byte)}
	for _, p := range []lb.Protocol{lb.TCP, lb.UDP} {
		frame, err := packet.Packet{Src: clientAt(1), Dst: vipAt(1), Protocol: p, Payload: []byte("?")}.Bytes()
		r.do(err)
		w.frames[p] = frame
	}
	w.take(r)
	return w
}

// take takes the programs that packets see.
func (w *wire) take(r *rig) {
	r.follow()
	w.ingress, w.egress = r.ingress, r.egress
}

// run sends one packet. The checksums are those of another, which no program
// looks at. passed: the program let it through, and from and to are its ends now.
func (w *wire) run(prog *cilium.Program, p lb.Protocol, from, to end, flags packet.Flag) (_, _ end, passed bool, err error) {
	const src, dst, ports, tcpFlags = 26, 30, 34, 47
	f := w.frames[p]
	copy(f[src:], from.addr[:])
	copy(f[dst:], to.addr[:])
	binary.BigEndian.PutUint16(f[ports:], from.port)
	binary.BigEndian.PutUint16(f[ports+2:], to.port)
	if p == lb.TCP {
		f[tcpFlags] = byte(flags)
	}
	w.opts.Data, w.opts.DataOut = f, w.out[:]
	ret, err := prog.Run(&w.opts)
	f = w.out[:]
	from = end{[4]byte(f[src:]), binary.BigEndian.Uint16(f[ports:])}
	to = end{[4]byte(f[dst:]), binary.BigEndian.Uint16(f[ports+2:])}
	return from, to, int32(ret) == -1, err
}

// talk is a client at a VIP.
type talk struct {
	protocol     lb.Protocol
	client, vip  end
	masqueraded  bool
	server, seen end // where its last packet went, and from whom; zero: none did
}

// fromClient sends a packet of the client through all hooks that it meets.
func (w *wire) fromClient(t *talk, flags packet.Flag) error {
	seen, server, passed, err := w.run(w.ingress, t.protocol, t.client, t.vip, flags)
	if err != nil || !passed || server == t.vip {
		return err
	}
	if t.masqueraded {
		if seen, _, passed, err = w.run(w.egress, t.protocol, seen, server, flags); err != nil || !passed {
			return err
		}
	}
	t.server, t.seen = server, seen
	return nil
}

// fromServer sends an answer, to whom the last packet came from.
func (w *wire) fromServer(t *talk, flags packet.Flag) (err error) {
	if t.server == (end{}) {
		return nil
	}
	to := t.seen
	if t.masqueraded {
		if _, to, _, err = w.run(w.ingress, t.protocol, t.server, t.seen, flags); err != nil {
			return err
		}
	}
	_, _, _, err = w.run(w.egress, t.protocol, t.server, to, flags)
	return err
}

// direct sends a packet of the client to the server itself.
func (w *wire) direct(t *talk, flags packet.Flag) error {
	_, _, _, err := w.run(w.ingress, t.protocol, t.client, t.server, flags)
	return err
}

// step sends a packet that t may send.
func (w *wire) step(rng *rand.Rand, t *talk) error {
	const syn, ack, fin, rst = packet.SYN, packet.ACK, packet.FIN, packet.RST
	n := rng.IntN(100)
	if t.protocol == lb.UDP && n < 95 {
		if n < 70 {
			return w.fromClient(t, 0)
		}
		return w.fromServer(t, 0)
	}
	switch {
	case n < 34:
		return w.fromClient(t, syn)
	case n < 46:
		return w.fromServer(t, syn|ack)
	case n < 60:
		return w.fromClient(t, ack)
	case n < 66:
		return w.fromServer(t, ack)
	case n < 77:
		return w.fromClient(t, fin|ack)
	case n < 87:
		return w.fromServer(t, fin|ack)
	case n < 92:
		return w.fromClient(t, rst)
	case n < 97:
		return w.fromServer(t, rst|ack)
	}
	return w.direct(t, syn)
}

// stormService is one of the services: each has another way to get, to keep and
// to lose flows.
func stormService(n int, servers []lb.Backend) *lb.Service {
	svc := &lb.Service{
		ID: lb.ServiceID{Name: fmt.Sprintf("storm%d", n), Family: lb.IPv4}, Scheduler: "rr", Backends: servers,
		Frontends: []lb.Frontend{frontendAt(n)},
	}
	switch n {
	case 2:
		svc.Scheduler = "wlc"
		for i := range svc.Backends {
			svc.Backends[i].Upper, svc.Backends[i].Lower = 900, 700
		}
	case 3:
		svc.Scheduler = "wrr"
		svc.SetMasquerade(lb.MasqueradeAlways)
	case 4:
		svc.Frontends[0].Protocol = lb.UDP
	case 5:
		svc.Scheduler, svc.Affinity = "sh", lb.Affinity{Timeout: time.Minute, Prefix: 28}
	case 6:
		svc.Lost, svc.Reuse = lb.LostReset, lb.ReuseFinished
	}
	return svc
}

func seedOf(t *testing.T) uint64 {
	seed := *stormSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("seed %d", seed)
	return seed
}

// storm is a rig in which nothing stays as it is.
type storm struct {
	*rig
	rng     *rand.Rand
	wire    *wire
	talks   []talk
	servers [stormServices + 1][]lb.Backend // of each service; some are not in it
	absent  [stormServices + 1][]bool
	opened  uint64 // flows, but for those of since on
	since   uint64 // what connections were
}

func newStorm(t *testing.T, seed uint64, talks int, ring uint32) *storm {
	return newStormIn(t, seed, talks, map[string]uint32{"flows": 1 << 19, "half_open": ring, "direct": 1 << 14})
}

func newStormIn(t *testing.T, seed uint64, talks int, room map[string]uint32) *storm {
	r := newRig(t, room)
	s := &storm{rig: r, rng: rand.New(rand.NewPCG(seed, 0))}
	r.MasqueradeWith(lb.IPv4, numbered(19, stormNode, 0).Addr())
	for n := 1; n <= stormServices; n++ {
		for i := range stormServers {
			s.servers[n] = append(s.servers[n], lb.Backend{Addr: serverAt(100*n + i), Weight: 1})
		}
		s.absent[n] = make([]bool, stormServers)
	}
	s.applyAll()
	s.wire = newWire(r)
	for i := range talks {
		n := 1 + i%stormServices
		tk := talk{protocol: lb.TCP, client: endOf(clientAt(i / 2)), vip: endOf(vipAt(n)), masqueraded: n == 3}
		if n == 4 {
			tk.protocol = lb.UDP
		}
		s.talks = append(s.talks, tk)
	}
	return s
}

// applyAll applies what servers and absent say. Ids may be others' afterwards, and
// count from 0.
func (s *storm) applyAll() {
	s.t.Helper()
	if s.d.gen != nil {
		s.opened += s.connections() - s.since
	}
	var all []*lb.Service
	for n := 1; n <= stormServices; n++ {
		var in []lb.Backend
		for i, b := range s.servers[n] {
			if !s.absent[n][i] {
				in = append(in, b)
			}
		}
		all = append(all, stormService(n, in))
	}
	s.apply(all...)
	s.since = s.connections()
}

// connections are those of all ids.
func (s *storm) connections() (n uint64) {
	s.t.Helper()
	s.do(stats.EachStats(s.d.gen.Stats, s.entries["load"]-1, func(_ uint32, sum bpf.LBBackendStats) { n += sum.Connections }))
	return n
}

// change removes, adds, quiesces or breaks a server, or takes that back.
func (s *storm) change() {
	s.t.Helper()
	n, i := 1+s.rng.IntN(stormServices), s.rng.IntN(stormServers)
	b := &s.servers[n][i]
	switch s.rng.IntN(4) {
	case 0:
		b.Weight = uint16(s.rng.IntN(4))
	case 1:
		b.Unhealthy = !b.Unhealthy
	default:
		s.absent[n][i] = !s.absent[n][i]
	}
	s.applyAll()
}

// pass lets time pass, for flows and for ids that rest.
func (s *storm) pass() {
	s.t.Helper()
	s.Advance([]time.Duration{2 * time.Second, 2 * time.Second, 11 * time.Second, 61 * time.Second, 121 * time.Second, 1000 * time.Second}[s.rng.IntN(6)])
	s.age(grace / 2)
	s.wire.take(s.rig)
}

// restart starts another process; lost: it finds nothing of the configuration, so
// that backends get other ids, and the hints of all flows are wrong.
func (s *storm) restart(lost bool) {
	s.t.Helper()
	s.opened += s.connections() - s.since // before ids go to others
	if lost {
		s.do(os.Remove(filepath.Join(s.pins, "config")))
	}
	s.do(s.Restart())
	s.applyAll()
	s.wire.take(s.rig)
}

// tally counts the table without the code that is tested: live forward entries, by
// what their hint says, and those that are half-open.
func (r *rig) tally() (loads map[uint32]dataplane.Load, halfOpen uint64) {
	r.t.Helper()
	loads = make(map[uint32]dataplane.Load)
	r.do(r.eachEntry(func(k bpf.LBFlowKey, f *bpf.LBFlow) error {
		if k.Position != 1 || f.Flags&8 != 0 { // E1; no direct connection
			return nil
		}
		if f.Flags&32 != 0 && f.State < 13 {
			halfOpen++
		}
		l := loads[f.Backend]
		switch r.d.names.state(f.State) {
		case "ESTABLISHED", "SYN_SENT", "SYN_RECV", "SYNACK":
			l.Active++
		case "NONE", "FIN_WAIT", "TIME_WAIT", "CLOSE", "CLOSE_WAIT", "LAST_ACK", "LISTEN", "UDP":
			l.Inactive++
		case "REPLY":
			r.t.Errorf("a forward entry is a reply: %+v", k)
		}
		if l != (dataplane.Load{}) {
			loads[f.Backend] = l
		}
		return nil
	}))
	return loads, halfOpen
}

// eachEntry walks what tables there are.
func (r *rig) eachEntry(yield func(bpf.LBFlowKey, *bpf.LBFlow) error) error {
	err := batch.Each(r.d.loader.Map("flows"), yield)
	if next := r.d.loader.Map("flows_next"); next != nil {
		err = errors.Join(err, batch.Each(next, yield))
	}
	return err
}

// wantExact wants all counts to be what the table holds, and the audit to agree.
func (r *rig) wantExact(when string) {
	r.t.Helper()
	want, halfOpen := r.tally()
	var flows int64
	var ring bpf.LBHalfOpenRing
	r.do(r.d.gen.HalfOpenEnds.Lookup(uint32(0), &ring))
	if ring.Count != halfOpen {
		r.t.Errorf("%s: the ring counts %d half-open flows, there are %d", when, ring.Count, halfOpen)
	}
	found := 0
	r.do(stats.EachLoad(r.d.gen.Load, r.entries["load"]-1, func(id uint32, l bpf.LBBackendLoad) {
		got := dataplane.Load{Active: int64(l.Active), Inactive: int64(l.Inactive)}
		if got != want[id] {
			r.t.Errorf("%s: id %d counts %+v, there are %+v", when, id, got, want[id])
		}
		if _, ok := want[id]; ok {
			found++
		}
		flows += want[id].Active + want[id].Inactive
	}))
	if found != len(want) {
		r.t.Errorf("%s: flows are at ids that do not exist: %v", when, want)
	}
	got, err := r.d.audit(r.t.Context())
	r.do(err)
	if got.Difference != 0 || len(got.Wrong) != 0 || got.Skipped != 0 || got.Compared < found || got.Flows != uint64(flows) {
		r.t.Errorf("%s: the audit says %+v; want all compared, no difference, %d flows", when, got, flows)
	}
}

// TestCountsAreExactAfterAStorm opens flows and ends them in all ways there are:
// closed, reset, timed out, taken over by the next of the tuple, with backends that
// come, go, are quiesced and break, and processes that end.
func TestCountsAreExactAfterAStorm(t *testing.T) {
	s := newStorm(t, seedOf(t), stormTalks, 1<<13)
	begin, packets := time.Now(), 0
	for round := 1; s.opened < *stormFlows && !t.Failed(); round++ {
		for range 20_000 {
			s.do(s.wire.step(s.rng, &s.talks[s.rng.IntN(len(s.talks))]))
			packets++
		}
		s.change()
		switch {
		case round%50 == 0:
			s.restart(round%100 == 0)
		case round%3 == 0:
			s.pass()
		}
		if round%10 == 0 {
			s.wantExact(fmt.Sprintf("round %d", round))
		}
	}
	s.wantExact("at the end")
	t.Logf("%d flows, %d packets in %v", s.opened, packets, time.Since(begin).Round(time.Millisecond))
	s.Advance(time.Hour)
	s.Advance(2 * time.Second)
	if left, _ := s.tally(); len(left) > 0 {
		t.Errorf("an hour later there are still %v", left)
	}
	s.wantExact("an hour later")
}

// TestCountsAreExactWithManySendersAtATime has several senders to each CPU, of
// packets of the same few tuples, while the sweeper walks all the time and ends
// what is idle for a second. The fewer tuples, the more they meet.
func TestCountsAreExactWithManySendersAtATime(t *testing.T) {
	for _, tuples := range []int{1, 12} {
		t.Run(fmt.Sprint(tuples), func(t *testing.T) { manySenders(t, tuples, 1<<13) })
	}
	t.Run("displacing each other", func(t *testing.T) { manySenders(t, 40, 4) })
}

func manySenders(t *testing.T, tuples int, ring uint32) {
	seed := seedOf(t)
	s := newStorm(t, seed, tuples, ring)
	clocks, err := info.ReadClocks(s.d.gen.Meta)
	s.do(err)
	for i := range clocks.Timeouts {
		clocks.Timeouts[i] = 1
	}
	s.do(clocks.Put(s.d.gen.Meta))
	ctx, stop := context.WithTimeout(t.Context(), *stormTime)
	defer stop()
	var all errgroup.Group
	for n := range 2 * runtime.NumCPU() {
		w, rng := newWire(s.rig), rand.New(rand.NewPCG(seed, uint64(n+1)))
		talks := slices.Clone(s.talks) // each knows where it goes; the tuples are the same
		all.Go(func() error {
			for ctx.Err() == nil {
				if err := w.step(rng, &talks[rng.IntN(len(talks))]); err != nil {
					return err
				}
			}
			return nil
		})
	}
	all.Go(func() error {
		for ctx.Err() == nil {
			if err := s.d.sweep(ctx, nil); err != nil {
				return err
			}
		}
		return nil
	})
	for ctx.Err() == nil {
		s.change()
		time.Sleep(20 * time.Millisecond)
	}
	s.do(all.Wait())
	s.opened += s.connections() - s.since
	t.Logf("%d flows", s.opened)
	s.wantExact("at the end")
}
