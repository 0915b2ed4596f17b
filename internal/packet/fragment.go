// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

const (
	ethernet     = 14
	protoICMP    = 1
	protoICMPv6  = 58
	protoFragV6  = 44
	headerV4     = 20
	headerV6     = 40
	headerFragV6 = 8
)

// isV4 says which family a frame is of.
func isV4(frame []byte) bool { return frame[ethernet]>>4 == 4 }

// Fragment cuts a frame's IP packet, which has no options or extension headers,
// into fragments of at most size bytes of payload, a multiple of 8.
func Fragment(frame []byte, size int, id uint32) ([][]byte, error) {
	if size <= 0 || size%8 != 0 {
		return nil, fmt.Errorf("fragment size %d: write a multiple of 8", size)
	}
	head := ethernet + headerV6
	if isV4(frame) {
		head = ethernet + headerV4
	}
	payload := frame[head:]
	var out [][]byte
	for at := 0; at < len(payload); at += size {
		part := payload[at:min(at+size, len(payload))]
		more := at+size < len(payload)
		if isV4(frame) {
			out = append(out, fragmentV4(frame[:head], part, at, more, uint16(id)))
		} else {
			out = append(out, fragmentV6(frame[:head], part, at, more, id))
		}
	}
	return out, nil
}

func fragmentV4(head, part []byte, at int, more bool, id uint16) []byte {
	f := slices.Concat(head, part)
	ip := f[ethernet:]
	binary.BigEndian.PutUint16(ip[2:], uint16(headerV4+len(part)))
	binary.BigEndian.PutUint16(ip[4:], id)
	off := uint16(at / 8)
	if more {
		off |= 0x2000
	}
	binary.BigEndian.PutUint16(ip[6:], off)
	binary.BigEndian.PutUint16(ip[10:], 0)
	binary.BigEndian.PutUint16(ip[10:], ^sum(ip[:headerV4], 0))
	return f
}

func fragmentV6(head, part []byte, at int, more bool, id uint32) []byte {
	var h [headerFragV6]byte
	h[0] = head[ethernet+6]
	off := uint16(at)
	if more {
		off |= 1
	}
	binary.BigEndian.PutUint16(h[2:], off)
	binary.BigEndian.PutUint32(h[4:], id)
	f := slices.Concat(head, h[:], part)
	f[ethernet+6] = protoFragV6
	binary.BigEndian.PutUint16(f[ethernet+4:], uint16(headerFragV6+len(part)))
	return f
}

// Reassemble is Fragment's inverse, for fragments in any order. It fails if they
// differ in addresses or identification, or leave a gap.
func Reassemble(fragments [][]byte) ([]byte, error) {
	if len(fragments) == 0 {
		return nil, errors.New("reassemble: no fragments")
	}
	type piece struct {
		at    int
		bytes []byte
	}
	var pieces []piece
	first := fragments[0]
	head := slices.Clone(first[:ethernet+headerV6])
	if isV4(first) {
		head = slices.Clone(first[:ethernet+headerV4])
	}
	for _, f := range fragments {
		if isV4(f) {
			if sum(f[ethernet:ethernet+headerV4], 0) != 0xffff {
				return nil, errors.New("reassemble: wrong header checksum")
			}
			if string(f[ethernet+12:ethernet+20]) != string(first[ethernet+12:ethernet+20]) || string(f[ethernet+4:ethernet+6]) != string(first[ethernet+4:ethernet+6]) {
				return nil, errors.New("reassemble: fragments of several datagrams")
			}
			at := int(binary.BigEndian.Uint16(f[ethernet+6:])&0x1fff) * 8
			pieces = append(pieces, piece{at, f[ethernet+headerV4:]})
			continue
		}
		if string(f[ethernet+8:ethernet+40]) != string(first[ethernet+8:ethernet+40]) {
			return nil, errors.New("reassemble: fragments of several datagrams")
		}
		h := f[ethernet+headerV6:]
		head[ethernet+6] = h[0]
		pieces = append(pieces, piece{int(binary.BigEndian.Uint16(h[2:]) &^ 7), h[headerFragV6:]})
	}
	slices.SortFunc(pieces, func(a, b piece) int { return a.at - b.at })
	var payload []byte
	for _, p := range pieces {
		if p.at != len(payload) {
			return nil, fmt.Errorf("reassemble: a gap before %d", p.at)
		}
		payload = append(payload, p.bytes...)
	}
	if isV4(first) {
		return fragmentV4(head, payload, 0, false, 0), nil
	}
	binary.BigEndian.PutUint16(head[ethernet+4:], uint16(len(payload)))
	return append(head, payload...), nil
}

// sum is the internet checksum's sum (RFC 1071) of b, folded, from a start.
func sum(b []byte, start uint32) uint16 {
	total := start
	for i := 0; i+1 < len(b); i += 2 {
		total += uint32(b[i])<<8 | uint32(b[i+1])
	}
	if len(b)%2 == 1 {
		total += uint32(b[len(b)-1]) << 8
	}
	for total > 0xffff {
		total = total&0xffff + total>>16
	}
	return uint16(total)
}
