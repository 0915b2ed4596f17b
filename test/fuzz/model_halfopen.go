// SPDX-License-Identifier: Apache-2.0

package main

import "github.com/waggle-lb/waggle/bpf"

const (
	// ringPlaces is how many half-open flows a world's ring knows: few, so
	// that it comes round.
	ringPlaces = 64
	// roomAttempts is how many of them are looked at to make room.
	roomAttempts = 512

	fHalfOpen = uint8(bpf.LBFlowFlagsFLOW_HALF_OPEN)
)

// ring is the half-open flows in the order in which they came.
type ring struct {
	bpf.LBHalfOpenRing
	places [ringPlaces]key
}

// settle: the client of a flow has shown itself.
func (m *model) settle(e *entry) {
	if e.Flags&fHalfOpen != 0 {
		m.hit("half-open: settled")
		e.Flags &^= fHalfOpen
		m.ring.Count--
	}
}

// enterRing gives a new flow its place. Who had it may go.
func (m *model) enterRing(k key) {
	m.ring.Count++
	n := m.ring.Next
	m.ring.Next++
	if n-m.ring.Tail >= ringPlaces {
		m.ring.Tail = n - ringPlaces + 1
	}
	at := &m.ring.places[n%ringPlaces]
	if n >= ringPlaces && m.ring.Count > ringPlaces/2 {
		if *at == k {
			m.hit("half-open: a former flow of the tuple had the place")
		} else {
			m.displace(*at)
		}
	}
	*at = k
}

// displace ends a flow that is still half-open, without a trace.
func (m *model) displace(k key) bool {
	e := m.get(k)
	if e == nil || e.Flags&fHalfOpen == 0 {
		return false
	}
	m.hit("half-open: displaced")
	m.move(e, stDead)
	m.endAll(k, &e.flow, m.forget)
	m.forget(e)
	m.drops[bpf.LBDropReasonDROP_DISPLACED]++
	m.out.reasons = append(m.out.reasons, bpf.LBDropReasonDROP_DISPLACED)
	return true
}

// makeRoom displaces the oldest that is still half-open.
func (m *model) makeRoom() bool {
	for range roomAttempts {
		if m.ring.Tail >= m.ring.Next || m.ring.Count == 0 {
			return false
		}
		at := m.ring.Tail % ringPlaces
		m.ring.Tail++
		if m.displace(m.ring.places[at]) {
			m.hit("half-open: makes room in a full table")
			return true
		}
	}
	return false
}

// unanswered is a datagram of a flow that nobody answered: the third one, a
// second or more after the first, is a client's that is there.
func (m *model) unanswered(e *entry) {
	if e.Packets < 2 || e.Flags&fResourced != 0 {
		return
	}
	if r := m.get(replyOf(e.key, &e.flow)); r != nil && m.older(r, 1) {
		m.hit("half-open: datagrams go on")
		m.settle(e)
	}
}
