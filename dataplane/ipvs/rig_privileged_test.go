// SPDX-License-Identifier: Apache-2.0

//go:build privileged && ipvs

package ipvs

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/dataplane/conformance"
	"github.com/waggle-lb/waggle/internal/netlab"
	"github.com/waggle-lb/waggle/internal/packet"
	"github.com/waggle-lb/waggle/lb"
)

// rig is a machine between two wires: one leads to clients, the other to servers
// and everywhere else. There is nobody at their ends but the rig, which sends
// frames and looks what comes out. A frame of its own that goes through after each
// says when to stop looking: one CPU takes them in their order.
type rig struct {
	t       *testing.T
	machine *netlab.Namespace
	wires   map[conformance.Side]*wire
	d       *Dataplane
	local   map[netip.Addr]bool
	masq    map[lb.Family]netip.Addr
	routed  map[netip.Prefix]bool
	// left are packets that went out masqueraded, by what they would have been,
	// and came back.
	left  map[flow]netip.AddrPort
	drops map[string]uint64
	sent  uint64
}

type flow struct {
	client, server netip.AddrPort
	proto          lb.Protocol
}

// wire is one of the machine's devices and its far end.
type wire struct {
	device         string
	raw            *netlab.Raw
	far, near      net.HardwareAddr
	gateway, probe netip.Addr // probe: where a frame goes to that comes out here
}

func newRig(t *testing.T) *rig {
	t.Helper()
	lab, err := netlab.New(netlab.Options{Prefix: "ipvs"})
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{
		t: t, machine: lab.Director, wires: make(map[conformance.Side]*wire), local: make(map[netip.Addr]bool),
		masq: make(map[lb.Family]netip.Addr), routed: make(map[netip.Prefix]bool), left: make(map[flow]netip.AddrPort),
	}
	t.Cleanup(func() {
		if r.d != nil {
			r.do(r.d.Close())
		}
		for _, w := range r.wires {
			r.do(w.raw.Close())
		}
		r.do(lab.Close())
	})
	r.must(r.wire(lab, conformance.Client, "clients", 1))
	r.must(r.wire(lab, conformance.Backend, "servers", 2))
	for _, kv := range [][2]string{
		{"net/ipv4/conf/all/rp_filter", "0"}, {"net/ipv4/conf/all/accept_local", "1"}, {"net/ipv4/conf/all/send_redirects", "0"},
		{"net/ipv4/icmp_ratemask", "0"}, {"net/ipv6/icmp/ratelimit", "0"}, {"net/ipv6/icmp/ratemask", ""},
	} {
		r.must(r.machine.SetSysctl(kv[0], kv[1]))
	}
	for _, to := range []string{"0.0.0.0/0", "::/0"} {
		r.must(r.route(netip.MustParsePrefix(to), conformance.Backend))
	}
	for _, w := range r.wires {
		r.must(r.machine.SetSysctl("net/ipv4/conf/"+w.device+"/rp_filter", "0"))
		r.must(r.machine.SetSysctl("net/ipv4/conf/"+w.device+"/send_redirects", "0"))
	}
	r.must(r.route(netip.PrefixFrom(r.wires[conformance.Client].probe, 32), conformance.Client))
	r.must(r.Restart())
	r.must(r.machine.SetSysctl("net/netfilter/nf_conntrack_tcp_be_liberal", "1"))
	return r
}

func (r *rig) do(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Error(err)
	}
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// wire makes one. Gateways are neighbours that need not be asked for.
func (r *rig) wire(lab *netlab.Lab, side conformance.Side, device string, n byte) error {
	far, err := lab.AddNamespace(device)
	if err != nil {
		return err
	}
	if err := netlab.AddDevice(r.machine, device, far, "eth0"); err != nil {
		return err
	}
	w := &wire{device: device, gateway: netip.AddrFrom4([4]byte{10, 255, n, 2}), probe: netip.AddrFrom4([4]byte{10, 254, n, 2})}
	r.wires[side] = w
	if w.raw, err = far.Raw("eth0"); err != nil {
		return err
	}
	if w.far, err = far.MAC("eth0"); err != nil {
		return err
	}
	w.near, err = r.machine.MAC(device)
	return errors.Join(err, r.stay(w), r.neighbour(w, w.gateway), r.neighbour(w, gateway6(w)))
}

// stay gives a device an address that masquerading does not take: with a device's
// last one its routes and neighbours go.
func (r *rig) stay(w *wire) error {
	link, err := r.machine.Netlink().LinkByName(w.device)
	if err != nil {
		return err
	}
	own := &net.IPNet{IP: w.probe.Next().AsSlice(), Mask: net.CIDRMask(32, 32)}
	return r.machine.Netlink().AddrAdd(link, &netlink.Addr{IPNet: own, Scope: unix.RT_SCOPE_LINK})
}

// gateway6 is the wire's gateway of IPv6.
func gateway6(w *wire) netip.Addr {
	b := w.gateway.As4()
	return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 14: b[2], 15: 0xfe})
}

func (r *rig) neighbour(w *wire, a netip.Addr) error {
	index, err := r.machine.Ifindex(w.device)
	if err != nil {
		return err
	}
	return r.machine.Netlink().NeighAdd(&netlink.Neigh{LinkIndex: index, State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: w.far})
}

func (r *rig) route(to netip.Prefix, side conformance.Side) error {
	w := r.wires[side]
	index, err := r.machine.Ifindex(w.device)
	if err != nil {
		return err
	}
	via := w.gateway
	if to.Addr().Is6() {
		via = gateway6(w)
	}
	return r.machine.Netlink().RouteAdd(&netlink.Route{
		LinkIndex: index, Dst: &net.IPNet{IP: to.Addr().AsSlice(), Mask: net.CIDRMask(to.Bits(), to.Addr().BitLen())},
		Gw: via.AsSlice(), Flags: int(netlink.FLAG_ONLINK),
	})
}

func (r *rig) Dataplane() dataplane.Dataplane { return patient{r.d} }

// patient waits after changes: the kernel ends connections in a work queue, and a
// packet that comes before is dropped.
type patient struct{ *Dataplane }

func (p patient) Apply(snap *lb.Snapshot) dataplane.Report {
	defer time.Sleep(20 * time.Millisecond)
	return p.Dataplane.Apply(snap)
}

// Restart leaves the process that was there as it is: nobody calls it any more.
func (r *rig) Restart() error {
	return r.machine.Do(func() (err error) {
		r.d, err = New(Options{Log: slog.New(slog.NewTextHandler(r.t.Output(), nil))})
		return err
	})
}

func (r *rig) AssignLocal(a netip.Addr, assigned bool) {
	r.t.Helper()
	if a.IsLoopback() || r.local[a] == assigned {
		return
	}
	r.local[a] = assigned
	if device := r.wires[conformance.Backend].device; r.masq[lb.FamilyOf(a)] == a {
		r.assign(device, a, assigned)
	} else {
		r.assign("lo", a, assigned)
	}
}

func (r *rig) assign(device string, a netip.Addr, assigned bool) {
	r.t.Helper()
	h := r.machine.Netlink()
	link, err := h.LinkByName(device)
	r.must(err)
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}}
	if assigned {
		r.must(ignoring(h.AddrAdd(link, addr), unix.EEXIST))
	} else {
		r.must(ignoring(h.AddrDel(link, addr), unix.EADDRNOTAVAIL))
	}
	list, err := r.d.watcher.Addresses()
	r.must(err)
	next := make(map[netip.Addr]int)
	count(next, list, r.d.machine.device.Index())
	r.must(r.d.setAddresses(next))
}

func (r *rig) MasqueradeWith(f lb.Family, a netip.Addr) {
	r.t.Helper()
	device := r.wires[conformance.Backend].device
	if old := r.masq[f]; old == a {
		return
	} else if old.IsValid() {
		r.assign(device, old, false)
	}
	if r.masq[f] = a; a.IsValid() {
		r.assign(device, a, true)
	}
}

// Advance ends everything, if it is told of an hour: what has no timeout left goes
// with its server. The kernel's clock cannot be moved, so shorter times pass, but
// for those that take too long: what needs them is not asked of IPVS.
func (r *rig) Advance(d time.Duration) {
	r.t.Helper()
	if d < time.Hour {
		if d < 5*time.Second {
			time.Sleep(d)
		}
		return
	}
	r.must(r.machine.Do(func() error {
		_, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, netlink.FAMILY_V4, all{})
		_, err6 := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, netlink.FAMILY_V6, all{})
		return errors.Join(err, err6)
	}))
	clear(r.left)
	for _, h := range r.d.state.held {
		r.end(h)
	}
	r.must(r.d.drain())
}

// end ends the connections of a virtual service: the kernel does so when it deletes
// a server.
func (r *rig) end(h *held) {
	r.t.Helper()
	m := r.d.machine
	list, err := m.loads(h.key)
	r.must(err)
	if !slices.ContainsFunc(list, func(l load) bool { return l.active+l.inactive > 0 }) {
		return
	}
	for _, l := range list {
		r.must(m.delDest(h.key, l.dest))
	}
	r.awaitNone(h.key)
	for _, l := range slices.Backward(list) {
		r.must(m.newDest(h.key, l.dest))
	}
}

// awaitNone waits until a virtual service has no connection: they end in a work queue,
// and a server that comes back before gets its own. A second at most: of services of any
// port some stay.
func (r *rig) awaitNone(k key) {
	r.t.Helper()
	for begun := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		n := 0
		r.must(r.machine.Do(func() error {
			return eachConnection(func(c *connection) error {
				port := k.addr.Port()
				if c.proto == k.proto && c.vip.Addr() == k.addr.Addr() && (port == 0 || c.vip.Port() == port) && c.client.Port() != 0 {
					n++
				}
				return nil
			})
		}))
		if n == 0 || time.Since(begun) > time.Second {
			return
		}
	}
}

// all is every connection.
type all struct{}

func (all) MatchConntrackFlow(*netlink.ConntrackFlow) bool { return true }

// Send implements conformance.Rig. What a masqueraded flow meets at the egress hook
// and at the ingress hook, IPVS and connection tracking do at once: the rig tells
// it in two.
func (r *rig) Send(p conformance.Packet) conformance.Outcome {
	r.t.Helper()
	switch {
	case p.From == conformance.Backend && r.isOut(p):
		masq := r.left[flow{p.Src, p.Dst, p.Protocol}]
		if !masq.IsValid() {
			return conformance.Outcome{Verdict: lb.Pass, Src: p.Src, Dst: p.Dst}
		}
		return conformance.Outcome{Verdict: lb.Forward, Src: masq, Dst: p.Dst}
	case p.From == conformance.Client:
		for f, masq := range r.left {
			if masq == p.Dst && f.server == p.Src && f.proto == p.Protocol {
				return conformance.Outcome{Verdict: lb.Forward, Src: p.Src, Dst: f.client}
			}
		}
	}
	q := p
	if masq := r.left[flow{p.Dst, p.Src, p.Protocol}]; p.From == conformance.Backend && masq.IsValid() {
		q.Dst = masq
	}
	frames := r.through(q)
	out := r.outcome(q, frames)
	if out.Verdict == lb.Forward && p.From == conformance.Client && out.Src.Addr() == r.masq[lb.FamilyOf(p.Src.Addr())] && out.Src != p.Src {
		r.left[flow{p.Src, out.Dst, p.Protocol}] = out.Src
		out.Src = p.Src
	}
	return out
}

// isOut says whether a packet is one of a client's on its way to a server.
func (r *rig) isOut(p conformance.Packet) bool {
	if _, ok := r.left[flow{p.Src, p.Dst, p.Protocol}]; ok {
		return true
	}
	return r.d.state.servers[p.Dst.Addr()] > 0 && r.d.state.servers[p.Src.Addr()] == 0
}

// through sends a packet, and returns what came out.
func (r *rig) through(p conformance.Packet) (out []packet.Packet) {
	r.t.Helper()
	w := r.wires[p.From]
	if p.From == conformance.Client {
		r.reach(p.Src.Addr())
	}
	before, err := r.d.machine.counters()
	r.must(err)
	r.drops = before
	frame := packet.Packet{Src: p.Src, Dst: p.Dst, Protocol: p.Protocol, Flags: packet.Flag(p.Flags), Payload: p.Payload, Seq: 1000, Ack: 2000, SrcMAC: [6]byte(w.far), DstMAC: [6]byte(w.near)}
	b, err := frame.Bytes()
	r.must(err)
	r.must(w.raw.Send(b))
	for _, to := range r.wires { // a probe comes out of each, behind what the packet made come out
		from := r.wires[conformance.Client]
		if to == from {
			from = r.wires[conformance.Backend]
		}
		out = append(out, r.receive(to, r.probe(from, to))...)
	}
	return out
}

// probe sends a packet that goes in at one wire and comes out of the other.
func (r *rig) probe(from, to *wire) packet.Packet {
	r.t.Helper()
	r.sent++
	p := packet.Packet{
		Src: netip.AddrPortFrom(from.probe, 7), Dst: netip.AddrPortFrom(to.probe, 7), Protocol: lb.UDP,
		Payload: fmt.Append(nil, r.sent), SrcMAC: [6]byte(from.far), DstMAC: [6]byte(from.near),
	}
	b, err := p.Bytes()
	r.must(err)
	r.must(from.raw.Send(b))
	return p
}

// reach has packets to the clients' networks leave by their wire.
func (r *rig) reach(a netip.Addr) {
	bits := 16
	if a.Is6() {
		bits = 48
	}
	p, err := a.Prefix(bits)
	r.must(err)
	b := a.AsSlice()
	net := b[1]
	if a.Is6() {
		net = b[5]
	}
	if net != 51 && net != 52 || r.routed[p] {
		return
	}
	r.must(r.route(p, conformance.Client))
	r.routed[p] = true
}

// receive returns the packets that came out of a wire before the probe.
func (r *rig) receive(w *wire, probe packet.Packet) (out []packet.Packet) {
	r.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		b, err := w.raw.Receive(deadline)
		r.must(err)
		if b == nil {
			r.t.Fatal("the probe did not come out")
		}
		switch p, ok := decode(b); {
		case !ok || p.SrcMAC == [6]byte(w.far):
		case p.Dst == probe.Dst && string(p.Payload) == string(probe.Payload):
			return out
		default:
			out = append(out, p)
		}
	}
}

// decode reads a frame; false for what is no test's. Checksums are left to the
// device here.
func decode(b []byte) (p packet.Packet, ok bool) {
	d := gopacket.NewPacket(b, layers.LayerTypeEthernet, gopacket.Default)
	eth, _ := d.LinkLayer().(*layers.Ethernet)
	if eth == nil {
		return p, false
	}
	copy(p.SrcMAC[:], eth.SrcMAC)
	var src, dst net.IP
	switch ip := d.NetworkLayer().(type) {
	case *layers.IPv4:
		src, dst, p.Protocol = ip.SrcIP, ip.DstIP, lb.Protocol(ip.Protocol)
	case *layers.IPv6:
		src, dst, p.Protocol = ip.SrcIP, ip.DstIP, lb.Protocol(ip.NextHeader)
	default:
		return p, false
	}
	var from, to uint16
	switch l := d.TransportLayer().(type) {
	case *layers.TCP:
		from, to = uint16(l.SrcPort), uint16(l.DstPort)
		if l.RST {
			p.Flags = packet.RST
		}
		p.Payload = l.Payload
	case *layers.UDP:
		from, to, p.Payload = uint16(l.SrcPort), uint16(l.DstPort), l.Payload
	case *layers.SCTP:
		from, to, p.Payload = uint16(l.SrcPort), uint16(l.DstPort), l.Payload
	default:
		e, err := packet.ParseICMPError(b)
		if err != nil || p.Protocol != 1 && p.Protocol != 58 || p.Protocol == 58 && e.Type >= 128 {
			return p, false
		}
	}
	a, _ := netip.AddrFromSlice(src)
	c, _ := netip.AddrFromSlice(dst)
	p.Src, p.Dst = netip.AddrPortFrom(a.Unmap(), from), netip.AddrPortFrom(c.Unmap(), to)
	return p, true
}

// outcome says what became of a packet.
func (r *rig) outcome(p conformance.Packet, frames []packet.Packet) conformance.Outcome {
	reason := r.reason()
	out := conformance.Outcome{Verdict: lb.Drop, Reason: reason}
	for _, f := range frames {
		switch {
		case f.Protocol == 1 || f.Protocol == 58:
			if f.Dst.Addr() == p.Src.Addr() {
				out = conformance.Outcome{Verdict: lb.Refuse, Reason: reason, Answer: conformance.Unreachable}
			}
		case f.Flags&packet.RST != 0 && f.Src == p.Dst && f.Dst == p.Src:
			out = conformance.Outcome{Verdict: lb.Refuse, Reason: reason, Answer: conformance.Reset}
		case f.Src == p.Src && f.Dst == p.Dst:
			return conformance.Outcome{Verdict: lb.Pass, Src: p.Src, Dst: p.Dst}
		default:
			return conformance.Outcome{Verdict: lb.Forward, Src: f.Src, Dst: f.Dst}
		}
	}
	return r.explain(p, out)
}

// reason is what the rules counted the packet as.
func (r *rig) reason() string {
	after, err := r.d.machine.counters()
	r.must(err)
	for name, n := range after {
		if n > r.drops[name] {
			return name
		}
	}
	return ""
}

// explain says why, if no rule did: the stack, or IPVS.
func (r *rig) explain(p conformance.Packet, out conformance.Outcome) conformance.Outcome {
	if out.Reason != "" || p.From == conformance.Backend {
		return out
	}
	k := key{p.Dst, p.Protocol}
	any := key{netip.AddrPortFrom(p.Dst.Addr(), 0), p.Protocol}
	served := r.d.state.held[k] != nil || r.d.state.held[any] != nil
	own := r.local[p.Dst.Addr()] || r.masq[lb.FamilyOf(p.Dst.Addr())] == p.Dst.Addr()
	switch {
	case served && out.Answer == conformance.Unreachable:
		out.Reason = "empty_pool"
	case own:
		return conformance.Outcome{Verdict: lb.Pass, Src: p.Src, Dst: p.Dst}
	case out.Answer == conformance.Reset, p.Flags&conformance.RST != 0:
		out.Reason = "no_flow"
	}
	return out
}
