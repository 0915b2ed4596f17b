// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package ebpf

import (
	"bytes"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"

	cilium "github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"github.com/waggle-lb/waggle/dataplane/conformance"
	"github.com/waggle-lb/waggle/internal/netlab"
	"github.com/waggle-lb/waggle/internal/packet"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/loader"
	"github.com/waggle-lb/waggle/maps/devices"
)

// crossing is a router with XDP on two devices, behind which the suite's clients and
// servers are. It is all rigs' that a test has: nothing in it changes.
type crossing struct {
	router           *netlab.Namespace
	clients, servers side
	work             chan func() // in the router's namespace
	// sent are the packets that XDP sent on, and met all that it was given.
	sent, met atomic.Uint64
}

type side struct {
	index     int
	mac, next [6]byte
}

// Of enum xdp_action and tcx_action_base.
const (
	xdpPass  = 2
	goesOn   = -1
	redirect = 7
)

func newCrossing(t *testing.T) *crossing {
	t.Helper()
	lab, err := netlab.New(netlab.Options{Prefix: "cross", Clients: 1, Servers: 1})
	must(t, err)
	t.Cleanup(func() { must(t, lab.Close()) })
	x := &crossing{router: lab.Director, work: make(chan func())}
	must(t, x.router.EnableForwarding())
	x.clients, x.servers = x.side(t, lab.Clients()[0]), x.side(t, lab.Servers()[0])
	for space := range 100 {
		x.route(t, lab.Servers()[0], x.servers, netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(223 - space), serverNet}), 16))
		x.route(t, lab.Servers()[0], x.servers, netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, byte(space), serverNet}), 48))
	}
	for _, rest := range []string{"0.0.0.0/0", "::/0"} {
		x.route(t, lab.Clients()[0], x.clients, netip.MustParsePrefix(rest))
	}
	done := make(chan error)
	go func() {
		done <- x.router.Do(func() error {
			for f := range x.work {
				f()
			}
			return nil
		})
	}()
	t.Cleanup(func() {
		close(x.work)
		must(t, <-done)
	})
	return x
}

// serverNet is the suite's network of servers.
const serverNet = 19

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// side is the device towards a node: with an XDP program, without which test runs take no
// frame from there.
func (x *crossing) side(t *testing.T, n *netlab.Node) side {
	t.Helper()
	must(t, x.router.PassXDP(n.Device))
	own, err := x.router.Netlink().LinkByName(n.Device)
	must(t, err)
	far, err := n.Netlink().LinkByName("eth0")
	must(t, err)
	s := side{own.Attrs().Index, [6]byte(own.Attrs().HardwareAddr), [6]byte(far.Attrs().HardwareAddr)}
	for _, a := range []netip.Addr{n.V4, n.V6} {
		must(t, x.router.Netlink().NeighSet(&netlink.Neigh{LinkIndex: s.index, IP: a.AsSlice(), State: netlink.NUD_PERMANENT, HardwareAddr: s.next[:]}))
	}
	return s
}

func (x *crossing) route(t *testing.T, n *netlab.Node, s side, to netip.Prefix) {
	t.Helper()
	dst := &net.IPNet{IP: to.Addr().AsSlice(), Mask: net.CIDRMask(to.Bits(), to.Addr().BitLen())}
	must(t, x.router.Netlink().RouteReplace(&netlink.Route{Dst: dst, Gw: n.Addr(to.Addr().Is6()).AsSlice(), LinkIndex: s.index}))
}

// mode is that of the rigs there.
func (x *crossing) mode() loader.XDPMode {
	if x == nil {
		return loader.XDPOff
	}
	return loader.XDPNative
}

// devices are those that test runs are on: lo, where nothing crosses.
func (x *crossing) devices(masq devices.Device) map[uint32]devices.Device {
	if x == nil {
		return map[uint32]devices.Device{1: masq}
	}
	out := make(map[uint32]devices.Device)
	for _, s := range []side{x.clients, x.servers} {
		d := masq
		d.XDP, d.Native = s.mac, true
		out[uint32(s.index)] = d
	}
	return out
}

// run runs a program on a frame that comes in at a side, or leaves there.
func (x *crossing) run(prog *cilium.Program, s side, frame []byte) (ret int32, out []byte, err error) {
	var context any = [11]uint32{10: uint32(s.index)} // ifindex of struct __sk_buff
	if prog.Type() == cilium.XDP {
		context = [5]uint32{1: uint32(len(frame)), 3: uint32(s.index)} // data_end, ingress_ifindex of struct xdp_md
	}
	done := make(chan struct{})
	x.work <- func() {
		defer close(done)
		ret, out, err = runAt(prog, frame, context)
	}
	<-done
	return ret, out, err
}

// cross takes a packet over a crossing: what XDP sends on has met both hooks. The suite
// looks at them one by one; so of a masqueraded flow's packet it is told what the first
// one makes, and that the other one agrees with XDP is checked here.
func (r *rig) cross(p conformance.Packet, frame []byte) (ret int32, out []byte) {
	r.t.Helper()
	x := r.crossing
	from, prog := x.clients, r.ingress
	if p.From == conformance.Backend {
		from, prog = x.servers, r.egress
	}
	copy(frame, from.mac[:])
	if r.meetsXDP(p) {
		x.met.Add(1)
		ret, out, err := x.run(r.first, from, frame)
		r.do(err)
		if ret != xdpPass {
			x.sent.Add(1)
			return goesOn, r.afterIngress(p, out)
		}
		if !bytes.Equal(out, frame) {
			r.t.Errorf("XDP changed what it passes: %v -> %v", p.Src, p.Dst)
		}
	}
	ret, out, err := x.run(prog, from, frame)
	r.do(err)
	if got, err := packet.Parse(out); ret == redirect && err == nil && got.Dst.Addr() != p.Src.Addr() {
		ret = goesOn // past the stack
	}
	return ret, out
}

// meetsXDP reports whether a packet comes in: what the suite sends at egress may also be
// this machine's own, or the second half of a masqueraded flow's way, as is what answers
// it at ingress.
func (r *rig) meetsXDP(p conformance.Packet) bool {
	if p.From == conformance.Client {
		return p.Dst.Addr() != r.masq.Addr4 && p.Dst.Addr() != r.masq.Addr6
	}
	b := p.Src.Addr().AsSlice()
	return b[1] == serverNet || len(b) == 16 && b[5] == serverNet
}

// afterIngress is what ingress made of a packet that XDP sent on.
func (r *rig) afterIngress(p conformance.Packet, sent []byte) []byte {
	r.t.Helper()
	got, err := packet.Parse(sent)
	r.do(err)
	if p.From == conformance.Backend || got.Src == p.Src {
		return sent
	}
	between := got
	between.Src, between.DstMAC = p.Src, r.crossing.servers.mac
	frame, err := between.Bytes()
	r.do(err)
	_, out, err := r.crossing.run(r.egress, r.crossing.servers, frame)
	r.do(err)
	if left, err := packet.Parse(out); err != nil || left.Src != got.Src || left.Dst != got.Dst {
		r.t.Errorf("XDP sent %v -> %v, egress makes %v -> %v of it, %v", got.Src, got.Dst, left.Src, left.Dst, err)
	}
	return frame
}

// The suite through XDP, for both families and both protocols once.
func TestConformanceThroughXDP(t *testing.T) {
	x := newCrossing(t)
	t.Run("suite", func(t *testing.T) {
		for family, proto := range map[lb.Family]lb.Protocol{lb.IPv4: lb.TCP, lb.IPv6: lb.UDP} {
			conformance.RunPart(t, family, proto, func(t *testing.T) conformance.Rig {
				r := closedRig(t, nil)
				r.crossing = x
				r.open()
				return r
			})
		}
	})
	// the others begin flows, are answered, or are for nobody
	if sent, met := x.sent.Load(), x.met.Load(); met == 0 || sent < met/4 {
		t.Errorf("XDP sent on %d packets of %d that it met, want a quarter at least", sent, met)
	}
}
