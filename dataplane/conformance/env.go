// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/lb"
)

// slack is added to and taken from a timeout: a rig's clock may be coarse, and
// its real time passes as well.
const slack = 2 * time.Second

// env is a case's world: a rig, and names for addresses. VIPs, servers and
// clients are numbered from 1.
type env struct {
	*testing.T
	rig     Rig
	family  lb.Family
	proto   lb.Protocol
	space   byte // which addresses are this case's
	clients int
}

// part runs a part of a case, in the same world.
func (e *env) part(name string, run func(*env)) {
	e.Run(name, func(t *testing.T) {
		part := *e
		part.T = t
		run(&part)
		e.clients = part.clients
	})
}

// addr is address n of network net.
func (e *env) addr(net byte, n int) netip.Addr {
	if e.family == lb.IPv4 {
		return netip.AddrFrom4([4]byte{223 - e.space, net, byte(n >> 8), byte(n)})
	}
	a := netip.MustParseAddr("2001:db8::").As16()
	a[4], a[5], a[14], a[15] = e.space, net, byte(n>>8), byte(n)
	return netip.AddrFrom16(a)
}

const vipNet, serverNet, clientNet = 18, 19, 51

func (e *env) vip(n int) netip.AddrPort { return netip.AddrPortFrom(e.addr(vipNet, n), 80) }

func (e *env) server(n int) netip.AddrPort { return netip.AddrPortFrom(e.addr(serverNet, n), 8080) }

// client returns a client that was not there before.
func (e *env) client() netip.AddrPort {
	e.clients++
	return netip.AddrPortFrom(e.addr(clientNet, 1+e.clients/1000), uint16(20000+e.clients%1000))
}

// serverNumber is server's inverse; 0 for anything else.
func (e *env) serverNumber(a netip.AddrPort) int {
	b := a.Addr().AsSlice()
	n := int(b[len(b)-2])<<8 | int(b[len(b)-1])
	if a != e.server(n) {
		return 0
	}
	return n
}

// host is client n's address. No two of these are in one network of 256, and none
// is one of client's.
func (e *env) host(n int) netip.Addr { return e.addr(clientNet, (64+n)<<8|1) }

// clientAt returns a port of an address that was not there before.
func (e *env) clientAt(addr netip.Addr) netip.AddrPort {
	return netip.AddrPortFrom(addr, e.client().Port())
}

// backendOf matches a backend in list: server, weight, thresholds, health.
var backendOf = regexp.MustCompile(`^(\d+)(?::(\d+))?(?:\^(\d+)(?:-(\d+))?)?(!)?$`)

// list reads backends in list order: "3:2 1" is server 3 with weight 2 and server
// 1 with weight 1; "1^8-4!" is one that has thresholds 8 and 4 and is unhealthy.
func (e *env) list(s string) []lb.Backend {
	var out []lb.Backend
	for _, word := range strings.Fields(s) {
		m := backendOf.FindStringSubmatch(word)
		if m == nil {
			e.Fatalf("backends %q: %q", s, word)
		}
		number := func(i, otherwise int) int {
			if m[i] == "" {
				return otherwise
			}
			n, err := strconv.Atoi(m[i])
			if err != nil {
				e.Fatalf("backends %q: %v", s, err)
			}
			return n
		}
		out = append(out, lb.Backend{
			Addr: e.server(number(1, 0)), Weight: uint16(number(2, 1)),
			Upper: uint32(number(3, 0)), Lower: uint32(number(4, 0)), Unhealthy: m[5] != "",
		})
	}
	return out
}

func (e *env) id(name string) lb.ServiceID { return lb.ServiceID{Name: name, Family: e.family} }

func (e *env) frontend(vip netip.AddrPort) lb.Frontend {
	return lb.Frontend{Addr: vip, Protocol: e.proto}
}

// service describes one with the backends of list, reached at the vips.
func (e *env) service(name, scheduler, list string, vips ...int) *lb.Service {
	svc := &lb.Service{ID: e.id(name), Scheduler: scheduler, Backends: e.list(list)}
	for _, n := range vips {
		svc.Frontends = append(svc.Frontends, e.frontend(e.vip(n)))
	}
	return svc
}

func (e *env) snapshot(services ...*lb.Service) *lb.Snapshot {
	e.Helper()
	snap, err := lb.NewSnapshot(services...)
	if err != nil {
		e.Fatalf("snapshot: %v", err)
	}
	return snap
}

// apply makes the dataplane hold exactly these services.
func (e *env) apply(services ...*lb.Service) *lb.Snapshot {
	e.Helper()
	snap := e.snapshot(services...)
	e.applySnapshot(snap)
	return snap
}

func (e *env) applySnapshot(snap *lb.Snapshot) dataplane.Report {
	e.Helper()
	rep := e.rig.Dataplane().Apply(snap)
	if rep.Err != nil || len(rep.Failed) > 0 {
		e.Fatalf("apply: error %v, failed %v", rep.Err, rep.Failed)
	}
	return rep
}

// change is what makes a service another.
type change func(*lb.Service)

// web applies the one service of most cases, rr at VIP 1, with changes.
func (e *env) web(list string, changes ...change) *lb.Snapshot {
	e.Helper()
	return e.apply(e.changed(list, changes...))
}

// changed is what web applies.
func (e *env) changed(list string, changes ...change) *lb.Service {
	svc := e.service("web", "rr", list, 1)
	for _, c := range changes {
		c(svc)
	}
	return svc
}

func scheduler(name string, flags lb.SchedulerFlags) change {
	return func(s *lb.Service) { s.Scheduler, s.SchedulerFlags = name, flags }
}

func lost(l lb.Lost) change { return func(s *lb.Service) { s.Lost = l } }

func reuse(r lb.Reuse) change { return func(s *lb.Service) { s.Reuse = r } }

// affinity keeps each client at its backend for a time.
func affinity(timeout time.Duration) change {
	return func(s *lb.Service) {
		s.Affinity = lb.Affinity{Timeout: timeout, Prefix: uint8(s.ID.Family.Bits())}
	}
}

func onePacket(s *lb.Service) { s.OnePacket = true }

func hostSockets(s *lb.Service) { s.HostSockets = true }

func (e *env) restart() {
	e.Helper()
	if err := e.rig.Restart(); err != nil {
		e.Fatalf("restart: %v", err)
	}
}

// holds compares what Read returns with what was applied. The order of
// backends matters, that of frontends does not.
func (e *env) holds(want *lb.Snapshot) {
	e.Helper()
	got, err := e.rig.Dataplane().Read()
	if err != nil {
		e.Fatalf("read: %v", err)
	}
	if diff := cmp.Diff(describe(want), describe(got)); diff != "" {
		e.Errorf("held services (-want +got):\n%s", diff)
	}
}

// describe lists a snapshot's services, one a line, with all that they say.
func describe(snap *lb.Snapshot) []string {
	var out []string
	for svc := range snap.All() {
		all := *svc
		all.Frontends = slices.SortedFunc(slices.Values(svc.Frontends), lb.Frontend.Compare)
		out = append(out, fmt.Sprintf("%+v", all))
	}
	return out
}

// flags are those of a packet, if packets have flags here.
func (e *env) flags(f Flag) Flag {
	if e.proto == lb.TCP {
		return f
	}
	return 0
}

func (e *env) fromClient(src, dst netip.AddrPort, f Flag) Packet {
	return Packet{From: Client, Src: src, Dst: dst, Protocol: e.proto, Flags: e.flags(f)}
}

func (e *env) fromBackend(src, dst netip.AddrPort, f Flag) Packet {
	return Packet{From: Backend, Src: src, Dst: dst, Protocol: e.proto, Flags: e.flags(f)}
}

func passed(p Packet) Outcome { return Outcome{Verdict: lb.Pass, Src: p.Src, Dst: p.Dst} }

func refused(reason, answer string) Outcome {
	return Outcome{Verdict: lb.Refuse, Reason: reason, Answer: answer}
}

func dropped(reason string) Outcome { return Outcome{Verdict: lb.Drop, Reason: reason} }

// send sends a packet. Addresses of what does not go on are cleared.
func (e *env) send(p Packet) Outcome {
	got := e.rig.Send(p)
	if got.Verdict == lb.Refuse || got.Verdict == lb.Drop {
		got.Src, got.Dst = netip.AddrPort{}, netip.AddrPort{}
	}
	return got
}

// wants sends a packet and compares what becomes of it.
func (e *env) wants(p Packet, want Outcome) {
	e.Helper()
	same := cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })
	if diff := cmp.Diff(want, e.send(p), same); diff != "" {
		e.Errorf("outcome of %s -> %s flags %#x (-want +got):\n%s", p.Src, p.Dst, p.Flags, diff)
	}
}

// pick sends a new flow's first packet and returns the server's number; "-": it
// was refused.
func (e *env) pick(client, vip netip.AddrPort) string {
	e.Helper()
	switch got := e.send(e.fromClient(client, vip, SYN)); {
	case got.Verdict == lb.Forward:
		return strconv.Itoa(e.serverNumber(got.Dst))
	case got == refused("empty_pool", Unreachable):
		return "-"
	default:
		e.Fatalf("new flow %s -> %s: %+v", client, vip, got)
		return ""
	}
}

func (e *env) picksAt(vip netip.AddrPort, n int) string {
	e.Helper()
	out := make([]string, n)
	for i := range out {
		out[i] = e.pick(e.client(), vip)
	}
	return strings.Join(out, " ")
}

// wantPicksOf wants new flows of an address to VIP 1 at these servers.
func (e *env) wantPicksOf(addr netip.Addr, want string) {
	e.Helper()
	var got []string
	for range strings.Fields(want) {
		got = append(got, e.pick(e.clientAt(addr), e.vip(1)))
	}
	if got := strings.Join(got, " "); got != want {
		e.Errorf("new flows of %s went to %q, want %q", addr, got, want)
	}
}

func (e *env) wantPicks(want string) { e.Helper(); e.wantPicksAt(e.vip(1), want) }

func (e *env) wantPicksAt(vip netip.AddrPort, want string) {
	e.Helper()
	if got := e.picksAt(vip, len(strings.Fields(want))); got != want {
		e.Errorf("new flows to %s went to %q, want %q", vip, got, want)
	}
}

func (e *env) counters() dataplane.Counters {
	e.Helper()
	c, err := e.rig.Dataplane().Counters()
	if err != nil {
		e.Fatalf("counters: %v", err)
	}
	return c
}

func (e *env) backend(name string, server int) dataplane.BackendCounters {
	e.Helper()
	return e.counters().Backends[lb.BackendID{Service: e.id(name), Addr: e.server(server)}]
}

// wantLoad compares the gauges of a backend.
func (e *env) wantLoad(name string, server int, active, inactive uint64) {
	e.Helper()
	got := e.backend(name, server)
	if got.Active != active || got.Inactive != inactive {
		e.Errorf("%s's server %d: active %d, inactive %d, want %d, %d", name, server, got.Active, got.Inactive, active, inactive)
	}
}

// wantFlows compares the number of a backend's flows that are half-open or
// established: TCP counts them as active, UDP as inactive.
func (e *env) wantFlows(name string, server int, n uint64) {
	e.Helper()
	if e.proto == lb.TCP {
		e.wantLoad(name, server, n, 0)
	} else {
		e.wantLoad(name, server, 0, n)
	}
}
