// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

var verdicts = map[uint32]string{next: "next", drop: "drop", redirect: "redirect"}

// check compares what a program did with what the model says.
func (m *model) check(a arrival, want outcome, ret uint32, out []byte, sent [][]byte) error {
	if m.err != nil {
		return m.err
	}
	if ret != want.verdict {
		return fmt.Errorf("verdict %s (%d), want %s", verdicts[ret], int32(ret), verdicts[want.verdict])
	}
	if len(sent) != len(want.sent) {
		return fmt.Errorf("%d packets were sent, want %d", len(sent), len(want.sent))
	}
	for i := range sent {
		if !bytes.Equal(sent[i], want.sent[i]) {
			return fmt.Errorf("sent % x\nwant % x", sent[i], want.sent[i])
		}
	}
	if ret == drop || want.loose {
		return nil
	}
	if !bytes.Equal(out, want.frame) {
		return fmt.Errorf("out  % x\nwant % x", out, want.frame)
	}
	if before, after := sums(a.frame, a.hook.l3), sums(out, a.hook.l3); after != nil && (before == nil || want.fresh) {
		return fmt.Errorf("what came out has a wrong checksum: %w\nout % x", after, out)
	}
	return nil
}

// sums verifies the checksums of a frame, as far as there are any: nil if all
// that is understood is right.
func sums(frame []byte, l3 int) error {
	etherType := be16(frame[12:])
	p, ok := addresses(frame, etherType, l3)
	if !ok {
		return nil
	}
	shows := p.network()
	if p.v4 && shows != showsNonsense && p.l4 <= len(frame) && internet(frame[l3:l3+int(frame[l3]&15)*4]) != 0 {
		return errors.New("IPv4 header")
	}
	if shows != showsPorts || p.part != whole || p.l4+8 > p.end {
		return nil
	}
	segment := frame[p.l4:p.end]
	head := pseudo(p.src, p.dst, len(segment), p.proto)
	if p.v4 {
		copy(head, make([]byte, 12)) // of mapped addresses only the last 4 bytes count
		copy(head[16:], make([]byte, 12))
	}
	switch {
	case p.proto == protoTCP && len(segment) >= 20, p.proto == protoICM6 && !p.v4, p.proto == protoUDP && be16(segment[6:]) != 0:
	case p.proto == protoICMP && p.v4:
		head = nil
	default:
		return nil
	}
	if internet(head, segment) != 0 {
		return fmt.Errorf("protocol %d", p.proto)
	}
	return nil
}

// describe is a frame as a person reads it.
func describe(frame []byte, l3 int) string {
	first := gopacket.LayerType(layers.LayerTypeEthernet)
	if l3 == 0 && len(frame) > 0 {
		first = layers.LayerTypeIPv4
		if frame[0]>>4 == 6 {
			first = layers.LayerTypeIPv6
		}
	}
	return gopacket.NewPacket(frame, first, gopacket.Default).String()
}

// brief is a frame in one line.
func brief(a arrival) string {
	p, ok := addresses(a.frame, be16(a.frame[12:]), a.hook.l3)
	if !ok {
		return fmt.Sprintf("%s %d bytes", a.hook.name, len(a.frame))
	}
	shows := p.transport()
	s := fmt.Sprintf("%s %d %v -> %v", a.hook.name, p.proto, end2(p.src, p.sport), end2(p.dst, p.dport))
	if p.proto == protoTCP {
		s += fmt.Sprintf(" flags %#x", p.flags)
	}
	if shows != showsPorts || p.part != whole {
		s += fmt.Sprintf(" shows %d part %d", shows, p.part)
	}
	return s
}

// repeat runs a session again, with looks at all of the maps from a packet on.
func (s *session) repeat(look, from int) (again session, err error) {
	for range 5 {
		again = session{kernel: s.kernel, seed: s.seed, look: look, from: from, full: true, length: s.done + 2, rules: coverage{}}
		if err = again.run(); !errors.Is(err, errDisturbed) {
			break
		}
	}
	return again, err
}

// explain repeats a session that failed, with a look at the maps after each
// packet from the last good one on, and says what came before.
func (s *session) explain(err error) error {
	again, now := s.repeat(lookEvery, 0)
	if now != nil {
		again, now = s.repeat(1, again.done-lookEvery)
	}
	if now == nil || errors.Is(now, errDisturbed) {
		now = errors.Join(err, errors.New("not seen again when the world was repeated with a look after each packet"), now)
		again.history, again.done = s.history, s.done
	}
	var b strings.Builder
	fmt.Fprintf(&b, "world %d, packet %d: %v\n\nbefore it:\n", s.seed, again.done, now)
	for _, e := range again.history {
		if e.note != "" {
			fmt.Fprintf(&b, "  %d: %s\n", e.n, e.note)
			continue
		}
		fmt.Fprintf(&b, "  %d: %s: %s %v %d sent\n", e.n, brief(e.a), verdicts[e.o.verdict], e.o.reasons, len(e.o.sent))
	}
	if n := len(again.history); n > 0 && again.history[n-1].note == "" {
		a := again.history[n-1].a
		fmt.Fprintf(&b, "\nthe packet, device %d: % x\n%s", a.dev.index, a.frame, describe(a.frame, a.hook.l3))
	}
	return errors.New(b.String())
}
