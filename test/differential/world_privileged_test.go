// SPDX-License-Identifier: Apache-2.0

//go:build privileged && ipvs

package differential_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waggle-lb/waggle/internal/packet"
	"github.com/waggle-lb/waggle/lb"
)

// world is the two machines and the script that is played on both.
type world struct {
	*testing.T
	seed   uint64
	rng    *rand.Rand
	family lb.Family
	kernel *kernel
	waggle *waggle

	mode       mode
	services   []*service
	epoch      int
	planned    int                     // connections of the epoch
	operations int                     // of all epochs
	used       map[netip.AddrPort]bool // clients: no two connections have one
	near       []netip.Addr            // clients that come again
	// closes are when connections were reset: they end soon after, on each machine when
	// it comes to it.
	first, last time.Time
	tally       map[string]*tally
}

// tally counts what was compared of a scheduler.
type tally struct{ connections, packets, changes int }

func newWorld(t *testing.T, f lb.Family, seed uint64) *world {
	t.Helper()
	w := &world{T: t, seed: seed, rng: rand.New(rand.NewPCG(seed, uint64(f))), family: f, used: make(map[netip.AddrPort]bool), tally: make(map[string]*tally)}
	var vips []netip.Addr
	for i := range kinds {
		vips = append(vips, vip(f, i))
	}
	var err error
	w.kernel, err = newKernel(vips)
	w.do(err)
	t.Cleanup(func() { w.check(w.kernel.Close()) })
	w.waggle, err = newWaggle(t, vips)
	w.do(err)
	t.Cleanup(func() { w.check(w.waggle.Close()) })
	return w
}

func (w *world) do(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) check(err error) {
	w.Helper()
	if err != nil {
		w.Error(err)
	}
}

// begin makes an epoch's services: those of the one before are gone, but for what
// their connections still do.
func (w *world) begin(m mode) {
	w.Helper()
	w.epoch++
	w.first, w.last = time.Time{}, time.Time{}
	w.mode, w.services, w.near, w.planned = m, nil, nil, 0
	for range 40 {
		w.near = append(w.near, w.address())
	}
	of := make(map[string]int)
	for _, k := range kinds {
		of[k.scheduler]++
	}
	for i, k := range kinds {
		f := lb.Frontend{Addr: netip.AddrPortFrom(vip(w.family, i), uint16(1000+w.epoch)), Protocol: lb.TCP}
		if k.udp {
			f.Protocol = lb.UDP
		}
		s := &service{kind: k, frontend: f, returned: make(map[netip.AddrPort]bool)}
		if w.tally[k.scheduler] == nil {
			w.tally[k.scheduler] = &tally{}
		}
		if want := min(perEpoch, *connections-w.tally[k.scheduler].connections); want > 0 {
			s.left = (want + of[k.scheduler] - 1) / of[k.scheduler]
		}
		for n := range maxServers {
			if w.rng.IntN(2) == 0 {
				s.backends = append(s.backends, s.drawn(w.rng, serverAt(w.family, n)))
			}
		}
		w.rng.Shuffle(len(s.backends), func(i, j int) { s.backends[i], s.backends[j] = s.backends[j], s.backends[i] })
		for _, b := range s.backends {
			s.logf("add %s", line(b))
		}
		w.services = append(w.services, s)
		w.planned += s.left
	}
	w.do(w.kernel.setMode(m))
	text := rules(w.services)
	w.do(w.kernel.restore(text))
	w.do(w.waggle.restore(text, m))
	w.do(w.waggle.open())
	for _, s := range w.services {
		w.compare(s)
	}
}

func line(b lb.Backend) string {
	return fmt.Sprintf("%s weight %d thresholds %d %d", b.Addr, b.Weight, b.Upper, b.Lower)
}

// address is one of a client.
func (w *world) address() netip.Addr {
	r := w.rng.Uint64()
	if w.family == lb.IPv4 {
		return netip.AddrFrom4([4]byte{198, 18, byte(r) & 0x7f, byte(r >> 8)})
	}
	a := [16]byte{0: 0xfd, 3: 0x0c}
	for i := range 8 {
		a[8+i] = byte(r >> (8 * i))
	}
	return netip.AddrFrom16(a)
}

func (s *service) logf(format string, args ...any) {
	s.log = append(s.log, fmt.Sprintf(format, args...))
}

// differs reports a difference, with what led to it. The service's script ends there.
func (w *world) differs(s *service, what string, args ...any) {
	w.Helper()
	if s.failed {
		return
	}
	s.failed, s.left = true, 0
	w.Errorf("%s (seed %d, epoch %d, %s): %s\nscript:\n  %s", s, w.seed, w.epoch, w.mode, fmt.Sprintf(what, args...), strings.Join(s.log, "\n  "))
}

// send sends a packet to both machines, and returns what became of it on both.
func (w *world) send(s *service, from int, p packet.Packet) outcome {
	w.Helper()
	w.tally[s.scheduler].packets++
	b, err := p.Bytes()
	w.do(err)
	want, err := w.kernel.send(from, p, b)
	w.do(err)
	got, err := w.waggle.send(from, p, b)
	w.do(err)
	if got != want {
		w.differs(s, "packet %s > %s flags %#x: IPVS: %s, waggle: %s", p.Src, p.Dst, p.Flags, want, got)
	}
	return want
}

// patience is how long counts may differ that will be equal: timers and work queues
// come to it when they do.
const patience = 6 * time.Second

// compare compares the lists of servers, and how many connections they have.
func (w *world) compare(s *service) {
	w.Helper()
	if s.failed {
		return
	}
	var want, got []counts
	for begun := time.Now(); time.Since(begun) < patience; time.Sleep(5 * time.Millisecond) {
		var err error
		want, err = w.kernel.counts(s.frontend)
		w.do(err)
		want = gauges(want)
		got, err = w.waggle.gauges(s)
		w.do(err)
		if slices.Equal(want, got) {
			return
		}
		if time.Since(begun) > patience/2 {
			w.do(w.waggle.open())
		}
	}
	w.differs(s, "servers and their connections (-IPVS +waggle):\n%s", cmp.Diff(describe(want), describe(got)))
}

// gauges leaves out what IPVS only estimates at once.
func gauges(list []counts) (out []counts) {
	for _, c := range list {
		c.Connections, c.InPackets, c.InBytes, c.OutPackets, c.OutBytes = 0, 0, 0, 0, 0
		out = append(out, c)
	}
	return out
}

func describe(list []counts) (out []string) {
	for _, c := range list {
		out = append(out, fmt.Sprintf("%s: active %d inactive %d connections %d packets %d %d bytes %d %d", line(c.Backend),
			c.Active, c.Inactive, c.Connections, c.InPackets, c.OutPackets, c.InBytes, c.OutBytes))
	}
	return out
}

// compareTraffic compares all that servers count, once IPVS has summed it up.
func (w *world) compareTraffic() {
	w.Helper()
	for begun := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		all, err := w.waggle.counts(w.services)
		w.do(err)
		equal := true
		for _, s := range w.services {
			if s.failed {
				continue
			}
			want, err := w.kernel.counts(s.frontend)
			w.do(err)
			want, got := s.never(want), s.never(all[s])
			if slices.Equal(want, got) {
				continue
			}
			equal = false
			if time.Since(begun) > patience {
				w.differs(s, "what servers counted (-IPVS +waggle):\n%s", cmp.Diff(describe(want), describe(got)))
			}
		}
		if equal || time.Since(begun) > patience {
			return
		}
	}
}

// compareEntries compares the tables of connections: who is where, and in which
// state.
func (w *world) compareEntries() {
	w.Helper()
	at := make(map[netip.AddrPort]*service)
	for _, s := range w.services {
		if !s.failed {
			at[s.frontend.Addr] = s
		}
	}
	has := func(vip netip.AddrPort) bool { return at[vip] != nil }
	var diff string
	for begun := time.Now(); time.Since(begun) < patience; time.Sleep(200 * time.Millisecond) {
		want, err := w.kernel.entries(has)
		w.do(err)
		got, err := w.waggle.entries(has)
		w.do(err)
		if diff = cmp.Diff(want, got); diff == "" {
			return
		}
	}
	w.Errorf("connections (seed %d, epoch %d, %s) (-IPVS +waggle):\n%s", w.seed, w.epoch, w.mode, diff)
	for _, s := range w.services {
		if strings.Contains(diff, fmt.Sprintf("> %s\"", s.frontend.Addr)) {
			w.differs(s, "its connections are others")
		}
	}
}
