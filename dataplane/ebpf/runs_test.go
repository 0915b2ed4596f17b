// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// wantAlloc allocates and compares; base 0 wants none.
func wantAlloc(t *testing.T, s *space, length uint32, now time.Time, base uint32) {
	t.Helper()
	got, ok := s.alloc(length, now)
	if ok != (base != 0) || ok && got != base {
		t.Errorf("alloc(%d): %d, %v, want %d", length, got, ok, base)
	}
}

func TestExtentsAreUsedAgainByLength(t *testing.T) {
	var now time.Time
	s := newSpace(1, 101)
	wantAlloc(t, s, 4, now, 1)
	wantAlloc(t, s, 3, now, 5)
	wantAlloc(t, s, 4, now, 8)
	s.release(1, 4)
	s.release(5, 3)
	wantAlloc(t, s, 3, now, 5)
	wantAlloc(t, s, 4, now, 1)
	wantAlloc(t, s, 4, now, 12)
}

func TestExtentsAreCutFromTheShortestThatIsLonger(t *testing.T) {
	var now time.Time
	s := newSpace(1, 31)
	wantAlloc(t, s, 10, now, 1)
	wantAlloc(t, s, 6, now, 11)
	wantAlloc(t, s, 14, now, 17)
	s.release(1, 10)
	s.release(11, 6)
	wantAlloc(t, s, 4, now, 11)
	wantAlloc(t, s, 2, now, 15)
	wantAlloc(t, s, 10, now, 1)
	wantAlloc(t, s, 1, now, 0)
}

func TestExtentsThatTouchAreJoinedWhenNothingElseHelps(t *testing.T) {
	var now time.Time
	s := newSpace(1, 31)
	for base := uint32(1); base < 31; base += 5 {
		wantAlloc(t, s, 5, now, base)
	}
	s.release(6, 5)
	s.release(16, 5)
	wantAlloc(t, s, 10, now, 0) // 10 words are free, apart
	s.release(11, 5)
	wantAlloc(t, s, 15, now, 6)
	s.release(26, 5)
	s.release(6, 15)
	s.release(21, 5)
	wantAlloc(t, s, 25, now, 6)
}

func TestExtentsRestForTheGracePeriod(t *testing.T) {
	now := time.Unix(1000, 0)
	s := newSpace(1, 11)
	wantAlloc(t, s, 10, now, 1)
	s.rest(1, 4, now)
	s.rest(5, 6, now.Add(grace/2))
	wantAlloc(t, s, 4, now.Add(grace-1), 0)
	wantAlloc(t, s, 6, now.Add(grace), 0)
	wantAlloc(t, s, 4, now.Add(grace), 1)
	wantAlloc(t, s, 6, now.Add(grace*3/2-1), 0)
	wantAlloc(t, s, 6, now.Add(grace*3/2), 5)
}

// words says what the property test believes of each word.
type words []byte

const (
	free byte = iota
	live
	resting
)

func (w words) set(e extent, to byte) {
	for i := range e.length {
		w[e.base+i] = to
	}
}

// longest is the longest run of free words.
func (w words) longest() (most uint32) {
	n := uint32(0)
	for _, state := range w {
		if n++; state != free {
			n = 0
		}
		most = max(most, n)
	}
	return most
}

// No two extents overlap, an extent is found whenever there is one, and when
// all are given back the whole space can be had in one piece.
func TestExtentsAreNeitherSharedNorLost(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		first := rapid.Uint32Range(1, 5).Draw(t, "first")
		end := first + rapid.Uint32Range(1, 64).Draw(t, "length")
		s, model, now := newSpace(first, end), make(words, end), time.Unix(0, 0)
		model.set(extent{0, first}, live)
		var lives []extent
		var rests []rested
		wake := func() {
			for len(rests) > 0 && !rests[0].at.After(now) {
				model.set(rests[0].extent, free)
				rests = rests[1:]
			}
		}
		pick := func(t *rapid.T) (extent, bool) {
			if len(lives) == 0 {
				return extent{}, false
			}
			i := rapid.IntRange(0, len(lives)-1).Draw(t, "extent")
			e := lives[i]
			lives = slices.Delete(lives, i, i+1)
			return e, true
		}
		alloc := func(t *rapid.T) {
			length := rapid.Uint32Range(1, 12).Draw(t, "length")
			wake()
			base, ok := s.alloc(length, now)
			if want := model.longest() >= length; ok != want {
				t.Fatalf("alloc(%d): %v, want %v: %v", length, ok, want, model)
			}
			if !ok {
				return
			}
			e := extent{base, length}
			if base < first || base+length > end || slices.ContainsFunc(model[base:base+length], func(b byte) bool { return b != free }) {
				t.Fatalf("alloc(%d): base %d is not free: %v", length, base, model)
			}
			model.set(e, live)
			lives = append(lives, e)
		}
		t.Repeat(map[string]func(*rapid.T){
			"alloc": alloc, "alloc again": alloc,
			"release": func(t *rapid.T) {
				if e, ok := pick(t); ok {
					s.release(e.base, e.length)
					model.set(e, free)
				}
			},
			"rest": func(t *rapid.T) {
				if e, ok := pick(t); ok {
					s.rest(e.base, e.length, now)
					rests = append(rests, rested{e, now.Add(grace)})
					model.set(e, resting)
				}
			},
			"time": func(t *rapid.T) { now = now.Add(time.Duration(rapid.Int64Range(0, int64(grace)).Draw(t, "time"))) },
		})
		for _, e := range lives {
			s.rest(e.base, e.length, now)
		}
		if base, ok := s.alloc(end-first, now.Add(grace)); !ok || base != first {
			t.Fatalf("all given back: %d, %v, want all %d words at %d", base, ok, end-first, first)
		}
	})
}
