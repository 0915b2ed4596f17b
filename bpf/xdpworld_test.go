// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package bpf_test

import (
	"net"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/internal/netlab"
	"github.com/waggle-lb/waggle/internal/packet"
)

// What XDP returns (enum xdp_action of the kernel).
const (
	xdpPass     = 2
	xdpTX       = 3
	xdpRedirect = 4
)

// place is a device of a network namespace, where frames come in.
type place struct {
	ns       *netlab.Namespace
	device   string
	index    int
	mac      [6]byte
	next     [6]byte               // the neighbour behind it,
	gateways map[string]netip.Addr // and its addresses by family
}

func (a *place) inside(run func() error) func() error {
	return func() error { return a.ns.Do(run) }
}

// context is what a test run must be told for frames to come in at the device: the
// first fields of struct xdp_md or __sk_buff.
func (a *place) context(prog *ebpf.Program, length int) any {
	if prog.Type() == ebpf.XDP {
		return [5]uint32{1: uint32(length), 3: uint32(a.index)}
	}
	return [11]uint32{10: uint32(a.index)} // ifindex
}

// world is a router with two devices, both with XDP: clients are behind one, servers
// behind the other. Neighbours are known.
type world struct {
	t                *testing.T
	router           *netlab.Namespace
	clients, servers *place
}

func newWorld(t *testing.T) *world {
	t.Helper()
	lab, err := netlab.New(netlab.Options{Prefix: "xdp", Clients: 1, Servers: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	})
	w := &world{t: t, router: lab.Director}
	w.do(w.router.EnableForwarding())
	w.clients, w.servers = w.place(lab.Clients()[0]), w.place(lab.Servers()[0])
	for _, f := range families() {
		w.route(f.client.Addr(), lab.Clients()[0], w.clients)
		for _, s := range f.servers {
			w.route(s.Addr(), lab.Servers()[0], w.servers)
		}
	}
	return w
}

func (w *world) do(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// place gives the router's device towards a node an XDP program, without which test
// runs take no frame from there.
func (w *world) place(n *netlab.Node) *place {
	w.t.Helper()
	l, err := w.router.Netlink().LinkByName(n.Device)
	w.do(err)
	at := &place{ns: w.router, device: n.Device, index: l.Attrs().Index, mac: [6]byte(l.Attrs().HardwareAddr), gateways: map[string]netip.Addr{}}
	w.do(w.router.PassXDP(n.Device))
	far, err := n.Netlink().LinkByName("eth0")
	w.do(err)
	at.next = [6]byte(far.Attrs().HardwareAddr)
	for family, a := range map[string]netip.Addr{"ipv4": n.V4, "ipv6": n.V6} {
		at.gateways[family] = a
		w.neighbour(at, family, netlink.NUD_PERMANENT)
	}
	return at
}

// neighbour says what is known of the one behind a device.
func (w *world) neighbour(at *place, family string, state int) {
	w.t.Helper()
	a := at.gateways[family]
	w.do(w.router.Netlink().NeighSet(&netlink.Neigh{LinkIndex: at.index, IP: a.AsSlice(), State: state, HardwareAddr: net.HardwareAddr(at.next[:])}))
}

// route leads an address to a node.
func (w *world) route(a netip.Addr, n *netlab.Node, at *place) {
	w.t.Helper()
	to := &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
	w.do(w.router.Netlink().RouteReplace(&netlink.Route{Dst: to, Gw: n.Addr(a.Is6()).AsSlice(), LinkIndex: at.index, Type: unix.RTN_UNICAST}))
}

// load loads programs that know of XDP and of the world's devices.
func (w *world) load() *programs {
	w.t.Helper()
	p := loadWith(w.t, map[string]any{"with_xdp": true})
	w.devices(p, bpf.LBDeviceFlagsDEVICE_XDP|bpf.LBDeviceFlagsDEVICE_NATIVE, bpf.LBDeviceFlagsDEVICE_XDP|bpf.LBDeviceFlagsDEVICE_NATIVE)
	p.at = w.clients
	return p
}

// devices says what the two are, and that they masquerade.
func (w *world) devices(p *programs, clients, servers bpf.LBDeviceFlags) {
	w.t.Helper()
	for _, d := range []struct {
		at    *place
		flags bpf.LBDeviceFlags
	}{{w.clients, clients}, {w.servers, servers}} {
		p.do(p.Devices.Put(uint32(d.at.index), bpf.LBDevice{
			Addr4: nodes["ipv4"].As16(), Addr6: nodes["ipv6"].As16(), Mac: d.at.mac, Flags: uint8(d.flags),
		}))
	}
}

// come is a packet that comes in by a device.
func come(at *place, p packet.Packet) packet.Packet {
	p.SrcMAC, p.DstMAC = at.next, at.mac
	return p
}

// leave is a packet that was forwarded to a device.
func leave(at *place, p packet.Packet) packet.Packet {
	p.SrcMAC, p.DstMAC, p.TTL = at.mac, at.next, 63
	return p
}
