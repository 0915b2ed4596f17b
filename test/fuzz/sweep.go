// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"

	"github.com/waggle-lb/waggle/bpf"
)

// age is whether an entry is older than so many seconds.
func (m *model) older(e *entry, seconds uint32) bool { return m.now-e.Seen > seconds*hz }

// due says whether an idle forward entry ends: idle is the newer of the pair's.
func (m *model) due(e *entry) bool {
	seconds := m.timeouts[e.State]
	if seconds == 0 || !m.older(e, seconds) {
		return false
	}
	r := replyOf(e.key, &e.flow)
	if e.Flags&fResourced != 0 {
		if o := m.get(at(e.key, r1)); o != nil {
			r.Dport = o.Port
		}
	}
	reply := m.get(r)
	return reply == nil || m.older(reply, seconds)
}

// owned says whether what an entry belongs to is there.
func (m *model) owned(e *entry) bool {
	k := e.key
	if k.Position == uint8(e4) {
		fk, ok := m.forwardOf(e)
		f := m.flows[fk]
		return ok && f != nil && f.Addr == k.Saddr && f.Port == k.Sport
	}
	switch k.Position {
	case uint8(r1):
		return m.flows[at(k, e1)] != nil
	case uint8(r4):
		return m.flows[at(k, e4)] != nil
	case uint8(e2):
		return m.get(answers(k, e4)) != nil
	}
	return m.get(key{Saddr: k.Saddr, Daddr: e.Addr, Sport: k.Sport, Dport: e.Port, Proto: k.Proto, Position: uint8(e4)}) != nil
}

// lost says whether a flow ends because its backend left or is unhealthy.
func (m *model) lost(e *entry) bool {
	b, there := m.backendOf(e)
	s := m.services[b.Service]
	return there && b.State != stActive && s != nil && s.has(lostReset)
}

// sweepForward is what a walk does with a live forward entry.
func (m *model) sweepForward(e *entry, flush bool) {
	if e.Flags&fAffinity != 0 {
		m.prolong(e)
	}
	switch {
	case flush && m.lost(e):
		m.hit("sweep: a lost flow ends")
		m.retire(e)
	case m.due(e):
		m.hit("sweep: a flow times out")
		m.retire(e)
	}
}

// sweep compares a walk over the table with the rules, and takes over what it
// did: what depends on which entry was met first may be either way.
func (m *model) sweep(k *kernel, got map[key]flow, flush bool) error {
	var wrong error
	var gone, orphans []*entry
	for _, e := range m.list {
		_, there := got[e.key]
		switch old := e.State == stDead && m.older(e, 1); {
		case old && there:
			wrong = errors.Join(wrong, fmt.Errorf("sweep: %s is dead and stays", text(e.key)))
		case old:
			m.hit("sweep: a dead entry is deleted")
			gone = append(gone, e)
		case !there:
			wrong = errors.Join(wrong, fmt.Errorf("sweep: %s was deleted: %s", text(e.key), value(e.flow)))
		case e.live() && e.key.Position != uint8(e1) && m.older(e, 10) && !m.owned(e):
			orphans = append(orphans, e)
		}
	}
	m.mended = map[uint32]bool{}
	for _, e := range m.list {
		if e.live() && e.key.Position == uint8(e1) {
			m.sweepForward(e, flush)
		}
	}
	for _, e := range gone {
		m.forget(e)
	}
	for _, e := range orphans {
		m.hit("sweep: an orphan ends")
		m.discard(e)
	}
	for _, e := range m.list { // those that became orphans meanwhile
		g := got[e.key]
		if e.live() && e.key.Position != uint8(e1) && g.State == uint8(bpf.LBFlowStateSTATE_DEAD) && m.older(e, 10) && !m.owned(e) {
			m.discard(e)
		}
	}
	return errors.Join(wrong, m.takeOverload(k))
}

// takeOverload ends a sweep: where flows moved between ids, whether a backend
// with a load between its thresholds is overloaded depends on the order.
func (m *model) takeOverload(k *kernel) error {
	mended := m.mended
	m.mended = nil
	for id := range mended {
		var got gauges
		if err := k.Load.Lookup(id, &got); err != nil {
			return err
		}
		for _, before := range []uint32{0, 1} {
			l := *m.loadOf(id)
			l.Overloaded = before
			if b := m.backends[id]; b.Upper > 0 {
				weigh(&l, b)
			}
			if l.Overloaded == got.Overloaded {
				m.loadOf(id).Overloaded = got.Overloaded
			}
		}
	}
	return nil
}
