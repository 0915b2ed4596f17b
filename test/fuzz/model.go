// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"

	"github.com/waggle-lb/waggle/bpf"
)

// What a program returns (enum tcx_action_base of the kernel).
const (
	next     = 0xffffffff
	drop     = 2
	redirect = 7
)

// Short names of what the maps hold.
type (
	key           = bpf.LBFlowKey
	flow          = bpf.LBFlow
	affinityKey   = bpf.LBAffinityKey
	affinityEntry = bpf.LBAffinityEntry
	reason        = bpf.LBDropReason
)

const (
	e1 = bpf.LBPositionPOSITION_E1
	e2 = bpf.LBPositionPOSITION_E2
	e3 = bpf.LBPositionPOSITION_E3
	e4 = bpf.LBPositionPOSITION_E4
	r1 = bpf.LBPositionPOSITION_R1
	r4 = bpf.LBPositionPOSITION_R4

	stDead = uint8(bpf.LBFlowStateSTATE_DEAD)
	stUDP  = uint8(bpf.LBFlowStateSTATE_UDP)
	stRepl = uint8(bpf.LBFlowStateSTATE_REPLY)

	fReplied   = uint8(bpf.LBFlowFlagsFLOW_REPLIED)
	fMasq      = uint8(bpf.LBFlowFlagsFLOW_MASQUERADE)
	fResourced = uint8(bpf.LBFlowFlagsFLOW_RESOURCED)
	fDirect    = uint8(bpf.LBFlowFlagsFLOW_DIRECT)
	fAffinity  = uint8(bpf.LBFlowFlagsFLOW_AFFINITY)
)

// entry is one entry of the flow table.
type entry struct {
	key key
	flow
	at int // in model.list
}

func (e *entry) live() bool { return e != nil && e.State < stDead }

// datagram names one whose fragments are on their way.
type datagram struct {
	src, dst addr
	id       [4]byte
	proto    uint8
}

// pieces is what is known of a datagram.
type pieces struct {
	sport, dport uint16
	proto        uint8
	known        bool
	held         int            // that were kept since the first was last here
	kept         map[int][]byte // IP packets
	backend      uint32         // of one-packet scheduling
}

// outcome is what the model says of a packet.
type outcome struct {
	verdict uint32
	reasons []reason
	frame   []byte   // what comes out
	sent    [][]byte // what is sent through the hook again, in this order
	loose   bool     // the frame cannot be told: see refuse
	fresh   bool     // all headers are new
}

// model is the rules of docs/packet-path.md and docs/design.md, over a state
// of its own.
type model struct {
	*world
	rules coverage
	now64 uint64 // jiffies
	now   uint32 // their low half

	flows     map[key]*entry
	list      []*entry // all of flows, in an order that does not depend on chance
	direct    map[key]bool
	datagrams map[datagram]*pieces
	ring      ring
	heldCount int
	begun     *key // forward key whose first packet comes again, as its flow is torn or may be another's now
	affinity  map[affinityKey]*affinityEntry
	load      map[uint32]*gauges
	mended    map[uint32]bool // nil, or in a sweep: the ids between which flows moved
	stats     map[uint32]*bpf.LBBackendStats
	drops     [bpf.LBDropReasonDROP_MAX]uint64
	refilled  uint32
	tokens    int

	table transitions
	err   error // of the model: a rule that no sequence of packets should need
	out   outcome
}

func newModel(w *world, rules coverage, now uint64) *model {
	m := &model{world: w, rules: rules, flows: map[key]*entry{}, direct: map[key]bool{}, datagrams: map[datagram]*pieces{},
		affinity: map[affinityKey]*affinityEntry{}, load: map[uint32]*gauges{}, stats: map[uint32]*bpf.LBBackendStats{}, table: parseStates()}
	m.setNow(now)
	return m
}

func (m *model) setNow(now uint64) { m.now64, m.now = now, uint32(now) }

func (m *model) hit(rule string) { m.rules[rule]++ }

// get returns a live entry, or nil.
func (m *model) get(k key) *entry {
	if e := m.flows[k]; e.live() {
		return e
	}
	return nil
}

func at(k key, p bpf.LBPosition) key { k.Position = uint8(p); return k }

// answers is the tuple of the packets that answer, in a position.
func answers(k key, p bpf.LBPosition) key {
	return key{Saddr: k.Daddr, Daddr: k.Saddr, Sport: k.Dport, Dport: k.Sport, Proto: k.Proto, Position: uint8(p)}
}

// replyOf is E4 of a flow that is not resourced.
func replyOf(k key, f *flow) key {
	return key{Saddr: f.Addr, Daddr: k.Saddr, Sport: f.Port, Dport: k.Sport, Proto: k.Proto, Position: uint8(e4)}
}

// forwardOf is E1 of the flow with this reply entry; false: a resourced one
// that does not know its client's port any more.
func (m *model) forwardOf(r *entry) (key, bool) {
	port := r.key.Dport
	if r.Flags&fResourced != 0 {
		e := m.get(at(r.key, r4))
		if e == nil {
			return key{}, false
		}
		port = e.Port
	}
	return key{Saddr: r.key.Daddr, Daddr: r.Addr, Sport: port, Dport: r.Port, Proto: r.key.Proto, Position: uint8(e1)}, true
}

type placed int

const (
	placedOK placed = iota
	placedTaken
	placedFull
)

// place enters an entry where there is none or a dead one.
func (m *model) place(k key, f flow) placed {
	old := m.flows[k]
	switch {
	case old.live():
		return placedTaken
	case old != nil:
		m.hit("insert: a dead entry is taken over")
		old.flow = f
		return placedOK
	case len(m.flows) >= m.capacity:
		return placedFull
	}
	e := &entry{key: k, flow: f, at: len(m.list)}
	m.flows[k] = e
	m.list = append(m.list, e)
	return placedOK
}

// forget removes an entry, as the sweeper does.
func (m *model) forget(e *entry) {
	delete(m.flows, e.key)
	last := m.list[len(m.list)-1]
	m.list[e.at], last.at = last, e.at
	m.list = m.list[:len(m.list)-1]
}

func (m *model) discard(e *entry) {
	if e.live() {
		e.State, e.Seen = stDead, m.now
	}
}

func isSYN(flags uint8) bool { return flags&(tcpSYN|tcpACK|tcpRST) == tcpSYN }

// retire ends a flow with all its entries.
func (m *model) retire(e *entry) {
	m.move(e, stDead)
	m.endReplies(e.key, &e.flow)
	e.Seen = m.now
}

// endReplies ends what hangs on a forward entry, in two steps.
func (m *model) endReplies(k key, f *flow) { m.endAll(k, f, m.discard) }

// endAll ends it one way or the other.
func (m *model) endAll(k key, f *flow, end func(*entry)) {
	r := replyOf(k, f)
	if f.Flags&fResourced != 0 {
		e := m.get(at(k, r1))
		if e == nil {
			return
		}
		r.Dport = e.Port
		end(e)
		if e := m.get(at(r, r4)); e != nil {
			end(e)
		}
	}
	e := m.get(r)
	if e == nil || e.Addr != k.Daddr || e.Port != k.Dport {
		return
	}
	if e.Flags&fMasq != 0 {
		m.endMasquerade(r, end)
	}
	end(e)
}

func (m *model) endMasquerade(r key, end func(*entry)) {
	out := m.get(answers(r, e2))
	if out == nil {
		return
	}
	in := m.get(key{Saddr: r.Saddr, Daddr: out.Addr, Sport: r.Sport, Dport: out.Port, Proto: r.Proto, Position: uint8(e3)})
	if in != nil && in.Addr == r.Daddr && in.Port == r.Dport {
		end(in)
	}
	end(out)
}

// touch counts a packet.
func (m *model) touch(e *entry, p *pkt) {
	e.Seen = m.now
	e.Packets++
	e.Bytes += uint64(p.bytes())
}

// verdicts of the model's parts
func (m *model) pass(p *pkt) {
	m.out.verdict, m.out.frame = next, p.frame
}

func (m *model) drop(r reason) {
	m.out.verdict, m.out.frame = drop, nil
	m.out.reasons = append(m.out.reasons, r)
	m.drops[r]++
}

func (m *model) broken(format string, args ...any) {
	if m.err == nil {
		m.err = fmt.Errorf(format, args...)
	}
}

// around is what some keys hold.
func (m *model) around(keys ...key) string {
	var b strings.Builder
	for _, k := range keys {
		if e := m.flows[k]; e != nil {
			fmt.Fprintf(&b, "\n%s %s", text(k), value(e.flow))
		} else {
			fmt.Fprintf(&b, "\n%s none", text(k))
		}
	}
	return b.String()
}

// reasonNames are those of docs/drops.md, by number.
var reasonNames = []string{"none", "empty_pool", "unknown_port", "no_flow", "untranslated", "reply_taken", "flows_full", "fragment",
	"extension", "protocol", "malformed", "rate_limited", "rewrite", "busy", "no_port", "no_address", "redirect", "backend_gone"}
