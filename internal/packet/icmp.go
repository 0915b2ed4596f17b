// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// ICMPError is a frame with an ICMP error of either family, and the IP packet
// that it quotes: as much as fits, without Ethernet header.
type ICMPError struct {
	Src, Dst netip.Addr
	// Type and Code are those of the family (RFC 792, RFC 4443), Value the
	// four bytes after the checksum: the MTU, in network order.
	Type, Code uint8
	Value      uint32
	Quoted     []byte
}

// Quote is the part of a frame that an error quotes.
func Quote(frame []byte, length int) []byte {
	return slices.Clone(frame[ethernet:min(len(frame), ethernet+length)])
}

// Bytes serialises the frame with correct lengths and checksums.
func (e ICMPError) Bytes() []byte {
	icmp := make([]byte, 8+len(e.Quoted))
	icmp[0], icmp[1] = e.Type, e.Code
	binary.BigEndian.PutUint32(icmp[4:], e.Value)
	copy(icmp[8:], e.Quoted)
	binary.BigEndian.PutUint16(icmp[2:], ^sum(icmp, pseudo(e.Src, e.Dst, len(icmp))))
	eth := make([]byte, ethernet)
	if e.Src.Is4() {
		binary.BigEndian.PutUint16(eth[12:], 0x0800)
		ip := []byte{0x45, 0xc0, 0, 0, 0, 0, 0, 0, 64, protoICMP, 0, 0}
		binary.BigEndian.PutUint16(ip[2:], uint16(headerV4+len(icmp)))
		ip = slices.Concat(ip, e.Src.AsSlice(), e.Dst.AsSlice())
		binary.BigEndian.PutUint16(ip[10:], ^sum(ip, 0))
		return slices.Concat(eth, ip, icmp)
	}
	binary.BigEndian.PutUint16(eth[12:], 0x86dd)
	ip := []byte{0x60, 0, 0, 0, 0, 0, protoICMPv6, 64}
	binary.BigEndian.PutUint16(ip[4:], uint16(len(icmp)))
	return slices.Concat(eth, ip, e.Src.AsSlice(), e.Dst.AsSlice(), icmp)
}

// pseudo is the sum of the pseudo-header: ICMP has none in IPv4.
func pseudo(src, dst netip.Addr, length int) uint32 {
	if src.Is4() {
		return 0
	}
	return uint32(sum(src.AsSlice(), 0)) + uint32(sum(dst.AsSlice(), 0)) + uint32(length) + protoICMPv6
}

// ParseICMPError reads a frame. It fails if a checksum is wrong: the outer
// header's, ICMP's, and that of a quoted IPv4 header.
func ParseICMPError(frame []byte) (ICMPError, error) {
	var e ICMPError
	var icmp []byte
	if isV4(frame) {
		ip := frame[ethernet:]
		if sum(ip[:headerV4], 0) != 0xffff {
			return e, errors.New("parse ICMP error: wrong checksum of the IP header")
		}
		e.Src, e.Dst = netip.AddrFrom4([4]byte(ip[12:16])), netip.AddrFrom4([4]byte(ip[16:20]))
		icmp = ip[headerV4:binary.BigEndian.Uint16(ip[2:])]
	} else {
		ip := frame[ethernet:]
		e.Src, e.Dst = netip.AddrFrom16([16]byte(ip[8:24])), netip.AddrFrom16([16]byte(ip[24:40]))
		icmp = ip[headerV6 : headerV6+int(binary.BigEndian.Uint16(ip[4:]))]
	}
	if sum(icmp, pseudo(e.Src, e.Dst, len(icmp))) != 0xffff {
		return e, errors.New("parse ICMP error: wrong checksum of ICMP")
	}
	e.Type, e.Code, e.Value, e.Quoted = icmp[0], icmp[1], binary.BigEndian.Uint32(icmp[4:]), icmp[8:]
	if e.Quoted[0]>>4 == 4 && sum(e.Quoted[:headerV4], 0) != 0xffff {
		return e, errors.New("parse ICMP error: wrong checksum of the quoted IP header")
	}
	return e, nil
}

// Ends returns what the quoted packet, without options or extension headers,
// says of its ends.
func (e ICMPError) Ends() (src, dst netip.AddrPort, err error) {
	q := e.Quoted
	switch {
	case len(q) >= headerV4+4 && q[0] == 0x45:
		src = netip.AddrPortFrom(netip.AddrFrom4([4]byte(q[12:16])), binary.BigEndian.Uint16(q[20:]))
		dst = netip.AddrPortFrom(netip.AddrFrom4([4]byte(q[16:20])), binary.BigEndian.Uint16(q[22:]))
	case len(q) >= headerV6+4 && q[0]>>4 == 6:
		src = netip.AddrPortFrom(netip.AddrFrom16([16]byte(q[8:24])), binary.BigEndian.Uint16(q[40:]))
		dst = netip.AddrPortFrom(netip.AddrFrom16([16]byte(q[24:40])), binary.BigEndian.Uint16(q[42:]))
	default:
		return src, dst, fmt.Errorf("parse quoted packet: % x", q)
	}
	return src, dst, nil
}
