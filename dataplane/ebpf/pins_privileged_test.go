// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package ebpf

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/dataplane/conformance"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/maps/info"
)

// pinned opens the pins.
func (r *rig) pinned() *Pins {
	r.t.Helper()
	p, err := OpenPins(r.pins)
	r.do(err)
	r.t.Cleanup(func() {
		if err := p.Close(); err != nil {
			r.t.Error(err)
		}
	})
	return p
}

func TestPinsAreReadWithTheProcessGone(t *testing.T) {
	r := newRig(t, nil)
	snap := r.apply(serve("web", from(1, 3), 1, 2), serve("shop", from(4, 5), 3), serve("empty", nil, 4))
	r.connect(1)
	r.connect(3)
	r.syn(2)
	r.syn(4)
	want, err := r.d.Counters()
	r.do(err)
	r.do(r.d.Close())
	defer r.open() // the rig closes one
	p := r.pinned()
	got, err := p.Read()
	r.do(err)
	if d := cmp.Diff(described(snap), described(got)); d != "" {
		t.Errorf("services (-want +got):\n%s", d)
	}
	counters, err := p.Counters()
	r.do(err)
	if d := cmp.Diff(want, counters, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); d != "" {
		t.Errorf("counters (-want +got):\n%s", d)
	}
	if n := counters.Drops["empty_pool"]; n != 1 || len(counters.Backends) != 5 {
		t.Errorf("%d drops, %d backends, want 1 and 5", n, len(counters.Backends))
	}
}

// flows lists what Flows yields, by client.
func (r *rig) flows(p *Pins) map[netip.AddrPort]dataplane.Flow {
	r.t.Helper()
	out := make(map[netip.AddrPort]dataplane.Flow)
	r.do(p.Flows(func(f dataplane.Flow) error {
		if _, ok := out[f.Client]; ok {
			r.t.Errorf("two flows of %s", f.Client)
		}
		out[f.Client] = f
		return nil
	}))
	return out
}

func TestFlowsAreReadWithTheProcessGone(t *testing.T) {
	r := newRig(t, nil)
	web, shop := serve("web", []int{1}, 1), serve("shop", []int{2}, 2)
	dns := lb.Frontend{Addr: vipAt(1), Protocol: lb.UDP}
	web.Frontends = append(web.Frontends, dns)
	r.apply(web, shop)
	established, _ := r.connect(1)
	halfOpen, _ := r.begin(2)
	datagram := r.newClient()
	r.Send(conformance.Packet{From: conformance.Client, Src: datagram, Dst: dns.Addr, Protocol: lb.UDP, Payload: make([]byte, 100)})
	r.apply(web)
	r.do(r.d.Close())
	defer r.open()
	p := r.pinned()
	got := r.flows(p)
	want := map[netip.AddrPort]dataplane.Flow{
		established: {
			Protocol: lb.TCP, Client: established, VIP: vipAt(1), Backend: serverAt(1), Service: web.ID, State: "ESTABLISHED",
			InPackets: 2, InBytes: 80, OutPackets: 1, OutBytes: 40,
		},
		halfOpen: {Protocol: lb.TCP, Client: halfOpen, VIP: vipAt(2), Backend: serverAt(2), Service: shop.ID, State: "SYN_RECV", InPackets: 1, InBytes: 40},
		datagram: {Protocol: lb.UDP, Client: datagram, VIP: vipAt(1), Backend: serverAt(1), Service: web.ID, State: "UDP", InPackets: 1, InBytes: 128},
	}
	timeouts := map[netip.AddrPort]time.Duration{established: 900 * time.Second, halfOpen: 60 * time.Second, datagram: 300 * time.Second}
	for client, f := range got {
		if sum := f.Idle + f.Expires; sum != timeouts[client] || f.Idle > 20*time.Second {
			t.Errorf("%s: idle %v, expires in %v, want %v together", client, f.Idle, f.Expires, timeouts[client])
		}
		f.Idle, f.Expires = 0, 0
		got[client] = f
	}
	if d := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); d != "" {
		t.Errorf("flows (-want +got):\n%s", d)
	}
	stop, n := errors.New("stop"), 0
	if err := p.Flows(func(dataplane.Flow) error { n++; return stop }); !errors.Is(err, stop) || n != 1 {
		t.Errorf("%d flows, error %v, want one and the caller's", n, err)
	}
}

// The clocks of meta say how long ago a packet was: 100 s more there are 100 s
// more here.
func TestFlowsAge(t *testing.T) {
	r := newRig(t, nil)
	r.apply(serve("web", []int{1}, 1))
	client, _ := r.connect(1)
	p := r.pinned()
	clocks, err := info.ReadClocks(p.meta)
	r.do(err)
	for _, ago := range []time.Duration{100 * time.Second, 2000 * time.Second} {
		c := clocks
		c.Jiffies += uint64(ago.Seconds()) * uint64(c.Hz)
		r.do(c.Put(r.d.gen.Meta))
		f := r.flows(p)[client]
		if f.Idle < ago || f.Idle > ago+20*time.Second || f.Expires != max(0, 900*time.Second-f.Idle) {
			t.Errorf("idle %v, expires in %v, want %v and the rest of 15 minutes", f.Idle, f.Expires, ago)
		}
	}
}

// A flow is as idle as the newer of its two directions.
func TestEitherDirectionKeepsAFlowYoung(t *testing.T) {
	for _, side := range []conformance.Side{conformance.Client, conformance.Backend} {
		r := newRig(t, nil)
		r.apply(serve("web", []int{1}, 1))
		client, _ := r.connect(1)
		r.Advance(50 * time.Second)
		packet := conformance.Packet{From: side, Src: client, Dst: vipAt(1), Protocol: lb.TCP, Flags: conformance.ACK}
		if side == conformance.Backend {
			packet.Src, packet.Dst = serverAt(1), client
		}
		r.Send(packet)
		p := r.pinned()
		clocks, err := info.ReadClocks(p.meta)
		r.do(err)
		clocks.Jiffies += 100 * uint64(clocks.Hz)
		r.do(clocks.Put(r.d.gen.Meta))
		if idle := r.flows(p)[client].Idle; idle < 49*time.Second || idle > 70*time.Second {
			t.Errorf("a packet 50 s ago from side %d, the other direction's 100 s: idle %v", side, idle)
		}
	}
}

func TestPinsFollowTheConfigurationThatPacketsSee(t *testing.T) {
	r := newRig(t, nil)
	web := r.apply(serve("web", from(1, 3), 1))
	r.do(r.Restart())
	for _, want := range []*lb.Snapshot{web, r.snapshot(serve("web", from(2, 4), 1), serve("shop", from(1, 2), 2))} {
		got, err := r.pinned().Read()
		r.do(err)
		if d := cmp.Diff(described(want), described(got)); d != "" {
			t.Errorf("services (-want +got):\n%s", d)
		}
		r.apply(serve("web", from(2, 4), 1), serve("shop", from(1, 2), 2))
	}
}

func TestNothingPinnedIsNotRunning(t *testing.T) {
	if _, err := OpenPins("/sys/fs/bpf/waggle-test-nothing"); !errors.Is(err, dataplane.ErrNotRunning) {
		t.Errorf("error %v, want ErrNotRunning", err)
	}
	r := newRig(t, nil) // opened, but nothing was ever applied
	if _, err := OpenPins(r.pins); !errors.Is(err, dataplane.ErrNotRunning) {
		t.Errorf("before the first Apply: error %v, want ErrNotRunning", err)
	}
	if snap, err := r.d.Read(); err != nil || snap.Len() != 0 {
		t.Errorf("before the first Apply: %v, %v", snap, err)
	}
	if c, err := r.d.Counters(); err != nil || len(c.Backends) != 0 {
		t.Errorf("before the first Apply: %+v, %v", c, err)
	}
}
