// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"maps"

	"github.com/waggle-lb/waggle/maps/batch"
	"github.com/waggle-lb/waggle/maps/bits"
)

// bitRefs counts who needs a bit, by its index.
type bitRefs struct {
	*bits.Table
	// more are those who need a bit that another set.
	more map[uint32]uint32
	// inherited are bits of a bitmap of another size, by inheritedShift, that a former
	// process set, perhaps for flows of which nothing else is known. Nobody clears them.
	inherited      []uint32
	inheritedShift bits.Shift
	later          *batch.Beside[bits.Mark] // nil: nothing waits
}

func newBitRefs(t *bits.Table) bitRefs { return bitRefs{Table: t, more: make(map[uint32]uint32)} }

// bitRefs are all that the state has.
func (s *state) bitRefs() []*bitRefs {
	return []*bitRefs{&s.vipBits, &s.backendBits, &s.peerBits, &s.masqBits, &s.portBits}
}

// hold sets what a mark needs, or has it wait.
func (b *bitRefs) hold(m bits.Mark) {
	if b.later != nil {
		b.later.Put(m)
	} else {
		b.holdNow(m)
	}
}

func (b *bitRefs) holdNow(m bits.Mark) {
	for i, was := range b.Mark(m) {
		if was {
			b.more[b.Bits(m)[i]]++
		}
	}
}

// holdAll holds marks, with nothing that waits for them.
func (b *bitRefs) holdAll(list []bits.Mark) {
	for _, m := range list {
		b.holdNow(m)
	}
}

func (b *bitRefs) drop(m bits.Mark) {
	for _, bit := range b.Bits(m) {
		switch n := b.more[bit]; n {
		case 0:
			b.Clear(bit)
		case 1:
			delete(b.more, bit)
		default:
			b.more[bit] = n - 1
		}
	}
}

// inherit keeps what is set in a former process's bitmap for what nobody holds:
// frontends and addresses that are gone, but for their flows. Of such a mark one bit may
// be held, by another that shares it, so all of its word stays when these go, too. A
// mark both of whose bits are held is not known from what is not there.
func (b *bitRefs) inherit(from *bits.Table) {
	b.inheritedShift = from.Shift
	words := make(map[uint32]bool)
	for bit := range from.Each {
		if !b.anyOf(bit) {
			words[bit>>6] = true
		}
	}
	for bit := range from.Each {
		if words[bit>>6] {
			b.inherited = append(b.inherited, bit)
		}
	}
	b.setInherited()
}

func (b *bitRefs) anyOf(bit uint32) bool {
	for i := range b.Those(bit, b.inheritedShift) {
		if b.IsSet(i) {
			return true
		}
	}
	return false
}

// setInherited sets what is inherited, and does so for good.
func (b *bitRefs) setInherited() {
	for _, bit := range b.inherited {
		for i := range b.Those(bit, b.inheritedShift) {
			if b.IsSet(i) {
				b.more[i]++
			} else {
				b.Set(i)
			}
		}
	}
}

// inheritBits has the bitmaps say, beside what they say, what those of a former
// process say of flows whose service or frontend is gone.
func (s *state) inheritBits(prev *formerTables) {
	for i, b := range s.bitRefs() {
		b.flushLater()
		b.inherit(prev.bits()[i])
	}
}

// announce has the bitmaps of before say what these say, too: while programs are
// replaced one by one, those of before meet packets of flows that the others made.
func (s *state) announce(before []*bits.Table) {
	for i, b := range s.bitRefs() {
		for bit := range b.Each {
			for was := range before[i].Those(bit, b.Shift) {
				if !before[i].IsSet(was) {
					before[i].Set(was)
				}
			}
		}
	}
}

func (b *bitRefs) flushLater() {
	if b.later != nil {
		b.later.Flush()
	}
}

// enlargedBits makes the bitmaps of a larger table say what those of s say.
func (s *state) enlargedBits(e *state) {
	tables := e.t.bits()
	for i, b := range s.bitRefs() {
		*e.bitRefs()[i] = b.onto(tables[i])
	}
	if e.vipBits.Shift == s.vipBits.Shift {
		return
	}
	for _, rec := range e.records {
		for a := range rec.addrs.all() {
			e.vipBits.hold(bits.Addr(a))
		}
	}
	for _, b := range e.byID {
		if b != nil {
			e.holdBits(b)
		}
	}
	for a := range e.peers {
		e.peerBits.hold(bits.Addr(a))
	}
}

// holdBits holds all that a backend needs.
func (s *state) holdBits(b *backend) {
	s.peerBits.hold(bits.Addr(b.in.Addr.Addr()))
	for p := range b.bits.all() {
		s.backendBits.hold(bits.Backend(b.in.Addr, p))
	}
	for p := range b.masqueraded.all() {
		s.masqBits.hold(bits.Backend(b.in.Addr, p))
	}
}

// onto is the same in another bitmap, which says nothing yet. If that is as large it says
// the same then, else what is inherited.
func (b *bitRefs) onto(t *bits.Table) bitRefs {
	to := newBitRefs(t)
	to.inherited, to.inheritedShift = b.inherited, b.inheritedShift
	if t.Shift == b.Shift {
		t.CopyFrom(b.Table)
		to.more = maps.Clone(b.more)
	} else {
		to.setInherited() // before anybody holds one of these, who then does not clear it
	}
	return to
}
