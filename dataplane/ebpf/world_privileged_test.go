// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package ebpf

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	cilium "github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/dataplane/conformance"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/maps/batch"
)

// vipAt, serverAt and clientAt number addresses from 1.
func vipAt(n int) netip.AddrPort    { return numbered(18, n, 80) }
func serverAt(n int) netip.AddrPort { return numbered(19, n, 8080) }
func clientAt(n int) netip.AddrPort { return numbered(51, 1+n/30000, 20000+uint16(n%30000)) }

func numbered(net byte, n int, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, net, byte(n >> 8), byte(n)}), port)
}

func frontendAt(n int) lb.Frontend { return lb.Frontend{Addr: vipAt(n), Protocol: lb.TCP} }

// serve is a service of scheduler rr at the numbered VIPs.
func serve(name string, servers []int, vips ...int) *lb.Service {
	svc := &lb.Service{ID: lb.ServiceID{Name: name, Family: lb.IPv4}, Scheduler: "rr"}
	for _, n := range servers {
		svc.Backends = append(svc.Backends, lb.Backend{Addr: serverAt(n), Weight: 1})
	}
	for _, n := range vips {
		svc.Frontends = append(svc.Frontends, frontendAt(n))
	}
	return svc
}

func from(first, last int) (out []int) {
	for n := first; n <= last; n++ {
		out = append(out, n)
	}
	return out
}

func (r *rig) snapshot(services ...*lb.Service) *lb.Snapshot {
	r.t.Helper()
	snap, err := lb.NewSnapshot(services...)
	r.do(err)
	return snap
}

// apply applies services, which all must succeed.
func (r *rig) apply(services ...*lb.Service) *lb.Snapshot {
	r.t.Helper()
	snap := r.snapshot(services...)
	if rep := r.d.Apply(snap); rep.Err != nil || len(rep.Failed) > 0 {
		r.t.Fatalf("apply: error %v, failed %v", rep.Err, rep.Failed)
	}
	return snap
}

// applyFull applies a snapshot of which the named services must fail, as a map
// has no room for them.
func (r *rig) applyFull(snap *lb.Snapshot, full string, names ...string) dataplane.Report {
	r.t.Helper()
	rep := r.d.Apply(snap)
	if rep.Err != nil || len(rep.Failed) != len(names) {
		r.t.Fatalf("apply: error %v, failed %v, want %v to fail", rep.Err, rep.Failed, names)
	}
	for _, name := range names {
		var fe *FullError
		if err := rep.Failed[lb.ServiceID{Name: name, Family: lb.IPv4}]; !errors.As(err, &fe) || fe.Map != full || fe.Max != r.entries[full] {
			r.t.Errorf("service %s: %v, want a full map %s of %d", name, err, full, r.entries[full])
		}
	}
	return rep
}

// described lists services, one a line.
func described(snap *lb.Snapshot) (out []string) {
	for svc := range snap.All() {
		fs := slices.SortedFunc(slices.Values(svc.Frontends), lb.Frontend.Compare)
		out = append(out, fmt.Sprintf("%s %s %v %v", svc.ID, svc.Scheduler, fs, svc.Backends))
	}
	return out
}

func (r *rig) wantHeld(want *lb.Snapshot) {
	r.t.Helper()
	got, err := r.d.Read()
	r.do(err)
	if d := cmp.Diff(described(want), described(got)); d != "" {
		r.t.Errorf("held services (-want +got):\n%s", d)
	}
}

// newClient returns a client that was not there before.
func (r *rig) newClient() netip.AddrPort { r.clients++; return clientAt(r.clients) }

// syn sends a new client's SYN to VIP n and returns the server's number: 0 if
// it passed as it was, -1 if it was refused.
func (r *rig) syn(n int) int {
	r.t.Helper()
	_, server := r.begin(n)
	return server
}

func (r *rig) begin(n int) (client netip.AddrPort, server int) {
	r.t.Helper()
	p := conformance.Packet{From: conformance.Client, Src: r.newClient(), Dst: vipAt(n), Protocol: lb.TCP, Flags: conformance.SYN}
	out := r.Send(p)
	switch out.Verdict {
	case lb.Pass:
		return p.Src, 0
	case lb.Forward:
		return p.Src, numberOf(out.Dst)
	}
	return p.Src, -1
}

// numberOf is serverAt's inverse; 0 for another address.
func numberOf(server netip.AddrPort) int {
	b := server.Addr().As4()
	if n := int(b[2])<<8 | int(b[3]); server == serverAt(n) {
		return n
	}
	return 0
}

// connect opens a connection of a new client to VIP n.
func (r *rig) connect(n int) (client netip.AddrPort, server int) {
	r.t.Helper()
	client, server = r.begin(n)
	if server <= 0 {
		r.t.Fatalf("VIP %d: no server (%d)", n, server)
	}
	r.Send(conformance.Packet{From: conformance.Backend, Src: serverAt(server), Dst: client, Protocol: lb.TCP, Flags: conformance.SYN | conformance.ACK})
	r.wantStays(client, n, server)
	return client, server
}

// wantStays wants a client's data to reach the server.
func (r *rig) wantStays(client netip.AddrPort, vip, server int) {
	r.t.Helper()
	out := r.Send(conformance.Packet{From: conformance.Client, Src: client, Dst: vipAt(vip), Protocol: lb.TCP, Flags: conformance.ACK})
	if out.Verdict != lb.Forward || out.Dst != serverAt(server) {
		r.t.Errorf("data of %s to VIP %d: %+v, want it at server %d", client, vip, out, server)
	}
}

// wantSYNs wants new clients of VIP n at these servers.
func (r *rig) wantSYNs(n int, want ...int) {
	r.t.Helper()
	var got []int
	for range want {
		got = append(got, r.syn(n))
	}
	if d := cmp.Diff(want, got); d != "" {
		r.t.Errorf("new clients of VIP %d (-want +got):\n%s", n, d)
	}
}

// idOf returns the backend id of a service's server, 0 if it has none.
func (r *rig) idOf(service string, server int) (id uint32) {
	r.t.Helper()
	hash := lb.BackendID{Service: lb.ServiceID{Name: service, Family: lb.IPv4}, Addr: serverAt(server)}.Hash()
	return r.d.state.t.backends.Find(hash)
}

// wantID compares a backend's id, in backend_ids and in backends.
func (r *rig) wantID(service string, server int, want uint32) {
	r.t.Helper()
	got := r.idOf(service, server)
	var b bpf.LBBackend
	r.do(r.d.gen.Backends.Lookup(want, &b))
	named := b.Hash == lb.BackendID{Service: lb.ServiceID{Name: service, Family: lb.IPv4}, Addr: serverAt(server)}.Hash()
	if got != want || !named && want != 0 {
		r.t.Errorf("%s's server %d has id %d, want %d, which says hash %#x, address %v", service, server, got, want, b.Hash, netip.AddrFrom16(b.Addr).Unmap())
	}
}

// age lets time pass for what rests, and reaps; from then on that time stands
// still. The programs' clock is another.
func (r *rig) age(by time.Duration) {
	r.t.Helper()
	now := r.d.state.now().Add(by)
	r.d.state.now = func() time.Time { return now }
	r.do(r.d.state.reap())
}

// dump is what the configuration maps hold, and service_info: by map, key and
// value as text. Cursors move with every pick.
func (r *rig) dump() map[string]string {
	r.t.Helper()
	out := make(map[string]string)
	g := r.d.gen
	r.do(errors.Join(
		dumpMap[bpf.LBVipKey, bpf.LBVip](out, g.Vips), dumpMap[uint32, bpf.LBService](out, g.Services), dumpMap[uint32, uint64](out, g.Slots),
		dumpMap[uint32, bpf.LBBackend](out, g.Backends), dumpMap[uint32, uint32](out, g.BackendIds),
		dumpMap[uint64, bpf.LBServiceName](out, g.ServiceInfo), dumpMap[uint32, uint64](out, g.VipBits), dumpMap[uint32, uint64](out, g.BackendBits),
	))
	return out
}

func dumpMap[K, V any](out map[string]string, m *cilium.Map) error {
	array := m.Type() == cilium.Array
	return batch.Each(m, func(k K, v *V) error {
		var zero V
		if text := fmt.Sprintf("%+v", *v); !array || text != fmt.Sprintf("%+v", zero) {
			out[fmt.Sprintf("%s %+v", m, k)] = text
		}
		return nil
	})
}

// wantDump compares the maps with what dump said.
func (r *rig) wantDump(want map[string]string) {
	r.t.Helper()
	if d := cmp.Diff(want, r.dump()); d != "" {
		r.t.Errorf("maps changed (-want +got):\n%s", d)
	}
}
