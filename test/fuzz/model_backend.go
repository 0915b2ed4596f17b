// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/waggle-lb/waggle/bpf"
)

// backendOf is a flow's backend. If the hint is another's it is mended, and the
// flow counts where it leads from now on. False: gone.
func (m *model) backendOf(e *entry) (backend, bool) {
	if b := m.backends[e.Backend]; b.Hash == e.BackendHash {
		return b, true
	}
	id, ok := m.ids[e.BackendHash]
	if !ok {
		return backend{}, false
	}
	m.hit("flow: a hint is mended")
	if e.State < stRepl {
		m.count(e.Backend, e.State, ^uint32(0))
		m.count(id, e.State, 1)
		if m.mended != nil {
			m.mended[e.Backend], m.mended[id] = true, true
		}
	}
	e.Backend = id
	return m.backends[id], true
}

func isActive(state uint8) bool {
	switch bpf.LBFlowState(state) {
	case bpf.LBFlowStateSTATE_ESTABLISHED, bpf.LBFlowStateSTATE_SYN_SENT, bpf.LBFlowStateSTATE_SYN_RECV, bpf.LBFlowStateSTATE_SYNACK:
		return true
	}
	return false
}

func isFinished(state uint8) bool {
	s := bpf.LBFlowState(state)
	return s == bpf.LBFlowStateSTATE_TIME_WAIT || s == bpf.LBFlowStateSTATE_CLOSE
}

// gauges are what a backend has.
type gauges = bpf.LBBackendLoad

func (m *model) loadOf(id uint32) *gauges {
	l := m.load[id]
	if l == nil {
		l = &gauges{}
		m.load[id] = l
	}
	return l
}

func add(l *gauges, state uint8, n uint32) {
	if isActive(state) {
		l.Active += n
	} else {
		l.Inactive += n
	}
}

// weigh says whether a backend with these thresholds is overloaded by what it
// has: from upper on, and then until it has fewer than lower.
func weigh(l *gauges, b backend) {
	lower := b.Lower
	if lower == 0 {
		lower = b.Upper - b.Upper/4
	}
	switch all := l.Active + l.Inactive; {
	case all >= b.Upper:
		l.Overloaded = 1
	case all < lower:
		l.Overloaded = 0
	}
}

// count adds n entries of a state to a backend's load.
func (m *model) count(id uint32, state uint8, n uint32) {
	add(m.loadOf(id), state, n)
	m.weigh(id)
}

func (m *model) weigh(id uint32) {
	l, b := m.loadOf(id), m.backends[id]
	if b.Upper == 0 {
		return
	}
	was := l.Overloaded
	weigh(l, b)
	switch {
	case l.Overloaded > was:
		m.hit("load: overloads the backend")
	case l.Overloaded < was:
		m.hit("load: overloads it no more")
	}
}

// judge is what the agent does when a backend's thresholds may be others.
func judge(l *gauges, b backend) {
	if b.Upper == 0 {
		l.Overloaded = 0
	} else {
		weigh(l, b)
	}
}

// move gives a forward entry another state, and its count with it.
func (m *model) move(e *entry, state uint8) {
	old := e.State
	m.backendOf(e)
	e.State = state
	if state >= stDead && e.Flags&fHalfOpen != 0 {
		e.Flags &^= fHalfOpen
		m.ring.Count--
	}
	id := e.Backend // gone or not: the count stands where the hint says
	if id == 0 || (state < stDead && isActive(state) == isActive(old)) {
		return
	}
	add(m.loadOf(id), old, ^uint32(0))
	if state < stDead {
		add(m.loadOf(id), state, 1)
	}
	m.weigh(id)
}

func (m *model) stat(id uint32) *bpf.LBBackendStats {
	s := m.stats[id]
	if s == nil {
		s = &bpf.LBBackendStats{}
		m.stats[id] = s
	}
	return s
}
