// SPDX-License-Identifier: Apache-2.0

// Package packet builds and reads the packets of tests and benchmarks: what
// goes into a program and what should come out, checksums included.
package packet

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/waggle-lb/waggle/lb"
)

// Flag is a set of TCP flags, as in the header.
type Flag uint8

// The flags that matter to a flow's state.
const (
	FIN Flag = 1 << 0
	SYN Flag = 1 << 1
	RST Flag = 1 << 2
	ACK Flag = 1 << 4
)

// Packet is an Ethernet frame with a TCP, UDP or SCTP packet.
type Packet struct {
	Src, Dst netip.AddrPort
	Protocol lb.Protocol
	Flags    Flag
	Seq, Ack uint32
	Payload  []byte
	// ZeroChecksum leaves the UDP checksum out (IPv4 only).
	ZeroChecksum bool
	// Options makes the IPv4 header 24 bytes long.
	Options bool
	// Fragment is the offset in units of 8 bytes, More the flag of IPv4.
	Fragment uint16
	More     bool
	// TTL is the hop limit too; 0: 64.
	TTL uint8
	// MAC addresses; zero is the loopback device's, so frames count as ours.
	SrcMAC, DstMAC [6]byte
}

// Bytes serialises the frame with correct lengths and checksums.
func (p Packet) Bytes() ([]byte, error) {
	eth := &layers.Ethernet{SrcMAC: p.SrcMAC[:], DstMAC: p.DstMAC[:], EthernetType: layers.EthernetTypeIPv4}
	var ip gopacket.NetworkLayer
	var ipl gopacket.SerializableLayer
	proto := layers.IPProtocol(p.Protocol)
	if p.Src.Addr().Is4() {
		v4 := &layers.IPv4{Version: 4, TTL: cmp.Or(p.TTL, 64), Protocol: proto, SrcIP: p.Src.Addr().AsSlice(), DstIP: p.Dst.Addr().AsSlice(), FragOffset: p.Fragment}
		if p.More {
			v4.Flags |= layers.IPv4MoreFragments
		}
		if p.Options {
			v4.Options = []layers.IPv4Option{{OptionType: 1}, {OptionType: 1}, {OptionType: 1}, {OptionType: 0}}
		}
		ip, ipl = v4, v4
	} else {
		eth.EthernetType = layers.EthernetTypeIPv6
		v6 := &layers.IPv6{Version: 6, HopLimit: cmp.Or(p.TTL, 64), NextHeader: proto, SrcIP: p.Src.Addr().AsSlice(), DstIP: p.Dst.Addr().AsSlice()}
		ip, ipl = v6, v6
	}
	l4, err := p.transport(ip)
	if err != nil {
		return nil, err
	}
	buf := gopacket.NewSerializeBuffer()
	opts := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: !p.ZeroChecksum}
	if err := gopacket.SerializeLayers(buf, opts, eth, ipl, l4, gopacket.Payload(p.Payload)); err != nil {
		return nil, fmt.Errorf("build packet: %w", err)
	}
	return buf.Bytes(), nil
}

func (p Packet) transport(ip gopacket.NetworkLayer) (gopacket.SerializableLayer, error) {
	switch p.Protocol {
	case lb.TCP:
		t := &layers.TCP{SrcPort: layers.TCPPort(p.Src.Port()), DstPort: layers.TCPPort(p.Dst.Port()), Seq: p.Seq, Ack: p.Ack, Window: 1024,
			FIN: p.Flags&FIN != 0, SYN: p.Flags&SYN != 0, RST: p.Flags&RST != 0, ACK: p.Flags&ACK != 0}
		return t, t.SetNetworkLayerForChecksum(ip)
	case lb.UDP:
		u := &layers.UDP{SrcPort: layers.UDPPort(p.Src.Port()), DstPort: layers.UDPPort(p.Dst.Port())}
		return u, u.SetNetworkLayerForChecksum(ip)
	case lb.SCTP: // its checksum covers no addresses, so any will do
		return &layers.SCTP{SrcPort: layers.SCTPPort(p.Src.Port()), DstPort: layers.SCTPPort(p.Dst.Port()), VerificationTag: 1}, nil
	}
	return nil, fmt.Errorf("build packet: protocol %v", p.Protocol)
}

// Parse reads a frame. It fails if a checksum is wrong: the frame must be as a
// host would accept it.
func Parse(b []byte) (Packet, error) {
	d := gopacket.NewPacket(b, layers.LayerTypeEthernet, gopacket.Default)
	if e := d.ErrorLayer(); e != nil {
		return Packet{}, fmt.Errorf("parse frame: %w", e.Error())
	}
	if err := Verify(d); err != nil {
		return Packet{}, err
	}
	var p Packet
	var src, dst netip.Addr
	if eth, ok := d.LinkLayer().(*layers.Ethernet); ok {
		copy(p.SrcMAC[:], eth.SrcMAC)
		copy(p.DstMAC[:], eth.DstMAC)
	}
	switch ip := d.NetworkLayer().(type) {
	case *layers.IPv4:
		src, dst, p.Protocol = addr(ip.SrcIP), addr(ip.DstIP), lb.Protocol(ip.Protocol)
	case *layers.IPv6:
		src, dst, p.Protocol = addr(ip.SrcIP), addr(ip.DstIP), lb.Protocol(ip.NextHeader)
	default:
		return Packet{}, fmt.Errorf("parse frame: no IP packet")
	}
	p.Src, p.Dst = netip.AddrPortFrom(src, 0), netip.AddrPortFrom(dst, 0)
	switch l4 := d.TransportLayer().(type) {
	case *layers.TCP:
		p.Src, p.Dst = netip.AddrPortFrom(src, uint16(l4.SrcPort)), netip.AddrPortFrom(dst, uint16(l4.DstPort))
		p.Seq, p.Ack, p.Flags, p.Payload = l4.Seq, l4.Ack, flags(l4), l4.Payload
	case *layers.UDP:
		p.Src, p.Dst = netip.AddrPortFrom(src, uint16(l4.SrcPort)), netip.AddrPortFrom(dst, uint16(l4.DstPort))
		p.ZeroChecksum, p.Payload = l4.Checksum == 0, l4.Payload
	case *layers.SCTP:
		p.Src, p.Dst = netip.AddrPortFrom(src, uint16(l4.SrcPort)), netip.AddrPortFrom(dst, uint16(l4.DstPort))
		p.Payload = l4.Payload
	default:
		p.Payload = d.NetworkLayer().LayerPayload()
	}
	return p, nil
}

// Verify checks all checksums of a decoded frame.
func Verify(d gopacket.Packet) error {
	for _, l := range d.Layers() {
		if c, ok := l.(interface {
			SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
		}); ok {
			if err := c.SetNetworkLayerForChecksum(d.NetworkLayer()); err != nil {
				return fmt.Errorf("verify checksums: %w", err)
			}
		}
	}
	err, wrong := d.VerifyChecksums()
	if err != nil {
		return fmt.Errorf("verify checksums: %w", err)
	}
	if len(wrong) > 0 {
		return fmt.Errorf("verify checksums: %+v", wrong)
	}
	return nil
}

func addr(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

func flags(t *layers.TCP) Flag {
	var f Flag
	for _, b := range []struct {
		set  bool
		flag Flag
	}{{t.FIN, FIN}, {t.SYN, SYN}, {t.RST, RST}, {t.ACK, ACK}} {
		if b.set {
			f |= b.flag
		}
	}
	return f
}
