// SPDX-License-Identifier: Apache-2.0

//go:build privileged && ipvs

package differential_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/internal/netlab"
	"github.com/waggle-lb/waggle/internal/packet"
	"github.com/waggle-lb/waggle/lb"
)

// The wires of a machine.
const (
	clients = iota
	servers
	wires
)

// machine is a router between two wires, at whose ends there is nobody but the
// test: it sends frames and looks at what comes out.
type machine struct {
	*netlab.Namespace
	lab    *netlab.Lab
	wires  [wires]*wire
	probes uint64
}

// wire is one of the machine's devices and its far end.
type wire struct {
	fd        int // a packet socket at the far end
	far, near net.HardwareAddr
	probe     netip.Addr // where a frame goes to that comes out here
	buf       []byte
}

// networks are what is behind each wire.
var networks = [wires][2]netip.Prefix{
	{netip.MustParsePrefix("198.18.0.0/17"), netip.MustParsePrefix("fd00:c::/32")},
	{netip.MustParsePrefix("198.19.0.0/16"), netip.MustParsePrefix("fd00:e::/32")},
}

// newMachine makes one that has the VIPs, as IPVS wants them.
func newMachine(name string, vips []netip.Addr) (*machine, error) {
	lab, err := netlab.New(netlab.Options{Prefix: name, VIPs: vips, AssignVIPs: true})
	if err != nil {
		return nil, err
	}
	m := &machine{Namespace: lab.Director, lab: lab}
	for i, device := range []string{"clients", "servers"} {
		err = errors.Join(err, m.wire(i, device))
	}
	for _, kv := range [][2]string{ // answers are not rare here
		{"net/ipv4/icmp_ratemask", "0"}, {"net/ipv6/icmp/ratelimit", "0"}, {"net/ipv6/icmp/ratemask", ""},
	} {
		err = errors.Join(err, m.SetSysctl(kv[0], kv[1]))
	}
	if err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

func (m *machine) Close() error {
	var errs []error
	for _, w := range m.wires {
		if w != nil && w.fd > 0 {
			errs = append(errs, unix.Close(w.fd))
		}
	}
	return errors.Join(append(errs, m.lab.Close())...)
}

func (m *machine) wire(n int, device string) error {
	far, err := m.lab.AddNamespace(device)
	if err != nil {
		return err
	}
	if err := netlab.AddDevice(m.Namespace, device, far, "eth0"); err != nil {
		return err
	}
	w := &wire{probe: netip.AddrFrom4([4]byte{10, 254, byte(n), 2}), buf: make([]byte, 2048)}
	m.wires[n] = w
	if w.far, err = far.MAC("eth0"); err != nil {
		return err
	}
	if w.near, err = m.MAC(device); err != nil {
		return err
	}
	index, err := far.Ifindex("eth0")
	if err != nil {
		return err
	}
	return errors.Join(far.Do(func() error { return w.open(index) }), m.route(device, w, networks[n]))
}

// open opens the socket, which sees what comes from the machine.
func (w *wire) open(index int) (err error) {
	all := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_ALL))
	if w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(all)); err != nil {
		return err
	}
	return errors.Join(
		unix.SetsockoptInt(w.fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
		unix.SetsockoptTimeval(w.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10}),
		unix.Bind(w.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: index}))
}

// route leads networks over a device. Gateways are neighbours that need not be
// asked for.
func (m *machine) route(device string, w *wire, to [2]netip.Prefix) error {
	index, err := m.Ifindex(device)
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range []netip.Prefix{to[0], to[1], netip.PrefixFrom(w.probe, 32)} {
		via := netip.AddrFrom4([4]byte{10, 255, w.probe.As4()[2], 2})
		if p.Addr().Is6() {
			via = netip.MustParseAddr("fe80::fe")
		}
		errs = append(errs,
			m.Netlink().NeighSet(&netlink.Neigh{LinkIndex: index, State: netlink.NUD_PERMANENT, IP: via.AsSlice(), HardwareAddr: w.far}),
			m.Netlink().RouteAdd(&netlink.Route{
				LinkIndex: index, Dst: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())},
				Gw: via.AsSlice(), Flags: int(netlink.FLAG_ONLINK),
			}))
	}
	return errors.Join(errs...)
}

func (w *wire) send(frame []byte) error {
	copy(frame, w.near)
	copy(frame[6:], w.far)
	for {
		if _, err := unix.Write(w.fd, frame); err != unix.EINTR {
			return err
		}
	}
}

// receive returns the next frame; nil if there is none. It waits for one if it
// shall.
func (w *wire) receive(wait bool) ([]byte, error) {
	flags := unix.MSG_DONTWAIT
	if wait {
		flags = 0
	}
	for {
		n, _, err := unix.Recvfrom(w.fd, w.buf, flags)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN) && !wait:
			return nil, nil
		case err != nil:
			return nil, fmt.Errorf("nothing came out: %w", err)
		default:
			return w.buf[:n], nil
		}
	}
}

// outcome is what became of a packet. Src and Dst are of the one that came out, if
// one did.
type outcome struct {
	What     string // "server", "client": who got it; "refused", "reset", "nothing"
	Src, Dst netip.AddrPort
}

func (o outcome) String() string {
	if !o.Dst.IsValid() {
		return o.What
	}
	return fmt.Sprintf("%s (%s > %s)", o.What, o.Src, o.Dst)
}

// send sends a packet and tells what became of it. One CPU takes frames in their
// order, most often before the call that sends them returns; where nothing came out,
// two frames that go through behind it say when to stop looking.
func (m *machine) send(from int, p packet.Packet, frame []byte) (outcome, error) {
	if err := m.wires[from].send(frame); err != nil {
		return outcome{}, err
	}
	for i, w := range m.wires {
		for {
			b, err := w.receive(false)
			if err != nil || b == nil {
				break
			}
			if out, ok := judge(from, i, p, b); ok {
				return out, nil
			}
		}
	}
	for i, w := range m.wires {
		probe, err := m.probe(i)
		if err != nil {
			return outcome{}, err
		}
		for begun := time.Now(); ; {
			b, err := w.receive(true)
			if err != nil || time.Since(begun) > time.Minute {
				return outcome{}, fmt.Errorf("the probe to wire %d did not come out: %w", i, err)
			}
			if out, ok := judge(from, i, p, b); ok {
				return out, nil
			}
			if f, ok := parse(b); ok && f.dst == probe {
				break
			}
		}
	}
	return outcome{What: "nothing"}, nil
}

// probe sends a packet that comes out of a wire, and returns where it goes to.
func (m *machine) probe(to int) (netip.AddrPort, error) {
	m.probes++
	from := m.wires[(to+1)%wires]
	dst := netip.AddrPortFrom(m.wires[to].probe, 1024+uint16(m.probes%60000))
	b, err := packet.Packet{Src: netip.AddrPortFrom(from.probe, 7), Dst: dst, Protocol: lb.UDP}.Bytes()
	if err != nil {
		return dst, err
	}
	return dst, from.send(b)
}

// judge says what a frame shows that came out of a wire after p was sent; false if
// it has nothing to do with it.
func judge(from, out int, p packet.Packet, b []byte) (outcome, bool) {
	client := p.Src
	if from == servers {
		client = p.Dst
	}
	f, ok := parse(b)
	if !ok {
		return outcome{}, false
	}
	switch {
	case out == servers && f.src == client:
		return outcome{"server", f.src, f.dst}, true
	case out == servers:
		return outcome{}, false
	case f.icmp && f.dst.Addr() == client.Addr():
		return outcome{What: "refused"}, true
	case f.dst != client:
		return outcome{}, false
	case f.flags&packet.RST != 0 && from == clients:
		return outcome{What: "reset"}, true
	}
	return outcome{"client", f.src, f.dst}, true
}

// frame is what counts of one.
type frame struct {
	src, dst netip.AddrPort
	flags    packet.Flag
	icmp     bool // port unreachable
}

// parse reads a frame without options or extension headers; false for what is no
// packet of the test's.
func parse(b []byte) (f frame, ok bool) {
	if len(b) < 42 {
		return f, false
	}
	var src, dst netip.Addr
	var proto byte
	var l4 []byte
	switch binary.BigEndian.Uint16(b[12:]) {
	case unix.ETH_P_IP:
		src, dst = netip.AddrFrom4([4]byte(b[26:])), netip.AddrFrom4([4]byte(b[30:]))
		proto, l4 = b[23], b[14+4*int(b[14]&15):]
	case unix.ETH_P_IPV6:
		if len(b) < 62 {
			return f, false
		}
		src, dst = netip.AddrFrom16([16]byte(b[22:])), netip.AddrFrom16([16]byte(b[38:]))
		proto, l4 = b[20], b[54:]
	default:
		return f, false
	}
	if len(l4) < 8 {
		return f, false
	}
	f.src, f.dst = netip.AddrPortFrom(src, binary.BigEndian.Uint16(l4)), netip.AddrPortFrom(dst, binary.BigEndian.Uint16(l4[2:]))
	switch proto {
	case unix.IPPROTO_TCP:
		if len(l4) < 20 {
			return f, false
		}
		f.flags = packet.Flag(l4[13])
	case unix.IPPROTO_UDP:
	case unix.IPPROTO_ICMP:
		f.icmp = l4[0] == 3 && l4[1] == 3
	case unix.IPPROTO_ICMPV6:
		f.icmp = l4[0] == 1 && l4[1] == 4
	}
	return f, f.icmp || proto == unix.IPPROTO_TCP || proto == unix.IPPROTO_UDP
}
