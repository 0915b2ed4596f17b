// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"fmt"
	"math/bits"
)

// FullError says that a map has no room for what a service needs. Nothing of
// the service was written.
type FullError struct {
	// Map is the map's name, Max the number of elements that it holds.
	Map string
	Max uint32
}

func (e *FullError) Error() string {
	return fmt.Sprintf("map %s is full (%d elements): raise --%s-max, remove services or backends, or wait until removed ones have no connections left", e.Map, e.Max, e.Map)
}

// idSpace gives out the numbers 1 to limit-1, the lowest free one first, so that
// those in use lie close together. It knows nothing of grace: who releases a
// number says that it may be given to another at once.
type idSpace struct {
	used []uint64 // bitmap; 0 is never free
	from int      // no word before this one has a free bit
	max  uint32
	// taken is how many are, 0 included.
	taken uint32
}

func newIDSpace(limit uint32) *idSpace {
	s := &idSpace{used: make([]uint64, (limit+63)/64), max: limit, taken: 1}
	s.used[0] = 1
	if tail := limit % 64; tail != 0 {
		s.used[len(s.used)-1] |= ^uint64(0) << tail
	}
	return s
}

// enlarged is one for more numbers in which the same ones are taken.
func (s *idSpace) enlarged(limit uint32) *idSpace {
	e := newIDSpace(limit)
	for i, word := range s.used {
		if tail := s.max % 64; tail != 0 && i == len(s.used)-1 {
			word &= 1<<tail - 1
		}
		e.used[i] |= word
	}
	e.from, e.taken = s.from, s.taken
	return e
}

// take returns the lowest free number; false if there is none.
func (s *idSpace) take() (uint32, bool) {
	for ; s.from < len(s.used); s.from++ {
		if free := bits.TrailingZeros64(^s.used[s.from]); free < 64 {
			s.used[s.from] |= 1 << free
			s.taken++
			return uint32(s.from*64 + free), true
		}
	}
	return 0, false
}

// claim takes this very number; false if it is taken or outside of the space.
func (s *idSpace) claim(id uint32) bool {
	if id >= s.max || s.used[id/64]>>(id%64)&1 == 1 {
		return false
	}
	s.used[id/64] |= 1 << (id % 64)
	s.taken++
	return true
}

// release makes a taken number free.
func (s *idSpace) release(id uint32) {
	s.used[id/64] &^= 1 << (id % 64)
	s.taken--
	s.from = min(s.from, int(id/64))
}
