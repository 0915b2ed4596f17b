// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"maps"
	"slices"
	"time"
)

// grace is how long a freed run, id or index rests before it is another's: far
// longer than a program on another CPU can take from reading a pool word to
// reading the backend.
const grace = time.Second

// extent is a piece of the map slots: length words from base.
type extent struct{ base, length uint32 }

// rested is an extent that becomes free at a time.
type rested struct {
	extent
	at time.Time
}

// space gives out extents of a range of words. Freed extents are kept by
// length, as most runs are replaced by one of the same length; they are merged
// only when nothing else helps.
type space struct {
	next, end uint32 // words never given out
	taken     uint32 // words given out, resting ones included, and those before the first
	free      map[uint32][]uint32
	resting   []rested // in the order of their times
}

func newSpace(first, end uint32) *space {
	return &space{next: first, end: end, taken: first, free: make(map[uint32][]uint32)}
}

// alloc returns the base of length words; false if there is no such extent.
func (s *space) alloc(length uint32, now time.Time) (uint32, bool) {
	s.wake(now)
	base, ok := s.find(length)
	if ok {
		s.taken += length
	}
	return base, ok
}

func (s *space) find(length uint32) (uint32, bool) {
	for range 2 {
		if base, ok := s.takeExact(length); ok {
			return base, true
		}
		if s.end-s.next >= length {
			base := s.next
			s.next += length
			return base, true
		}
		if base, ok := s.split(length); ok {
			return base, true
		}
		s.merge()
	}
	return 0, false
}

// release gives an extent back at once. Nobody may have seen it.
func (s *space) release(base, length uint32) {
	s.taken -= length
	s.put(base, length)
}

func (s *space) put(base, length uint32) { s.free[length] = append(s.free[length], base) }

// rest gives an extent back after the grace period.
func (s *space) rest(base, length uint32, now time.Time) {
	s.resting = append(s.resting, rested{extent{base, length}, now.Add(grace)})
}

// wake frees the extents that have rested long enough.
func (s *space) wake(now time.Time) {
	n := 0
	for n < len(s.resting) && !s.resting[n].at.After(now) {
		s.release(s.resting[n].base, s.resting[n].length)
		n++
	}
	s.resting = s.resting[n:] // many stay: none is moved
}

func (s *space) takeExact(length uint32) (uint32, bool) {
	list := s.free[length]
	if len(list) == 0 {
		return 0, false
	}
	base := list[len(list)-1]
	if len(list) == 1 {
		delete(s.free, length)
	} else {
		s.free[length] = list[:len(list)-1]
	}
	return base, true
}

// split cuts from the shortest free extent that is longer.
func (s *space) split(length uint32) (uint32, bool) {
	best := uint32(0)
	for l := range s.free {
		if l > length && (best == 0 || l < best) {
			best = l
		}
	}
	if best == 0 {
		return 0, false
	}
	base, _ := s.takeExact(best)
	s.put(base+length, best-length)
	return base, true
}

// merge joins free extents that touch.
func (s *space) merge() {
	var all []extent
	for length, bases := range maps.All(s.free) {
		for _, base := range bases {
			all = append(all, extent{base, length})
		}
	}
	slices.SortFunc(all, func(a, b extent) int { return int(a.base) - int(b.base) })
	clear(s.free)
	var joined []extent
	for _, e := range all {
		if n := len(joined); n > 0 && joined[n-1].base+joined[n-1].length == e.base {
			joined[n-1].length += e.length
		} else {
			joined = append(joined, e)
		}
	}
	if n := len(joined); n > 0 && joined[n-1].base+joined[n-1].length == s.next {
		s.next = joined[n-1].base
		joined = joined[:n-1]
	}
	for _, e := range joined {
		s.put(e.base, e.length)
	}
}
