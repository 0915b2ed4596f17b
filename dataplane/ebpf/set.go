// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"iter"
	"maps"
	"slices"
)

// set is a set that mostly has one element, and takes no more memory then. The zero
// value is empty.
type set[T comparable] struct {
	few  []T
	many map[T]struct{} // nil: few has them all
}

// few is how many are looked through one by one.
const few = 8

// add reports whether the element was not there.
func (s *set[T]) add(e T) bool {
	if s.many == nil {
		if slices.Contains(s.few, e) {
			return false
		}
		if len(s.few) < few {
			s.few = append(s.few, e)
			return true
		}
		s.many = make(map[T]struct{}, 2*few)
		for _, f := range s.few {
			s.many[f] = struct{}{}
		}
		s.few = nil
	}
	if _, ok := s.many[e]; ok {
		return false
	}
	s.many[e] = struct{}{}
	return true
}

// all yields the elements.
func (s *set[T]) all() iter.Seq[T] {
	if s.many != nil {
		return maps.Keys(s.many)
	}
	return slices.Values(s.few)
}
