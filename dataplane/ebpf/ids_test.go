// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// takeAll takes until there is none.
func takeAll(s *idSpace) []uint32 {
	var out []uint32
	for {
		id, ok := s.take()
		if !ok {
			return out
		}
		out = append(out, id)
	}
}

func TestIDsAreAllGivenOnceTheLowestFirst(t *testing.T) {
	for _, limit := range []uint32{1, 2, 63, 64, 65, 127, 128, 129, 1000} {
		s := newIDSpace(limit)
		var want []uint32
		for id := uint32(1); id < limit; id++ {
			want = append(want, id)
		}
		if d := cmp.Diff(want, takeAll(s)); d != "" {
			t.Errorf("limit %d (-want +got):\n%s", limit, d)
		}
		if id, ok := s.take(); ok {
			t.Errorf("limit %d: %d is given when all are taken", limit, id)
		}
		slices.Reverse(want)
		for _, id := range want {
			s.release(id)
		}
		slices.Reverse(want)
		if d := cmp.Diff(want, takeAll(s)); d != "" {
			t.Errorf("limit %d, released and taken again (-want +got):\n%s", limit, d)
		}
	}
}

func TestClaimTakesAFreeNumberOfTheSpaceOnly(t *testing.T) {
	s := newIDSpace(70)
	for _, c := range []struct {
		id   uint32
		want bool
	}{{0, false}, {1, true}, {1, false}, {69, true}, {70, false}, {127, false}, {128, false}, {1 << 31, false}, {2, true}} {
		if got := s.claim(c.id); got != c.want {
			t.Errorf("claim(%d): %v, want %v", c.id, got, c.want)
		}
	}
	if newIDSpace(64).claim(64) {
		t.Error("64 is taken of a space that ends at 63")
	}
	if got := takeAll(s); len(got) != 66 || got[0] != 3 || got[65] != 68 {
		t.Errorf("after the claims %d are free, %v: want 3 to 68", len(got), got)
	}
}

func TestIDsAreLikeASet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.Uint32Range(1, 200).Draw(t, "limit")
		s, used := newIDSpace(limit), map[uint32]bool{0: true}
		t.Repeat(map[string]func(*rapid.T){
			"take": func(t *rapid.T) {
				want := uint32(0)
				for want < limit && used[want] {
					want++
				}
				id, ok := s.take()
				if ok != (want < limit) || ok && id != want {
					t.Fatalf("take: %d, %v, want %d of %d", id, ok, want, limit)
				}
				used[want] = true
			},
			"claim": func(t *rapid.T) {
				id := rapid.Uint32Range(0, limit+70).Draw(t, "id")
				if got, want := s.claim(id), id < limit && !used[id]; got != want {
					t.Fatalf("claim(%d): %v, want %v", id, got, want)
				}
				used[id] = true
			},
			"release": func(t *rapid.T) {
				for id := range limit {
					if id > 0 && used[id] && rapid.Bool().Draw(t, "release") {
						s.release(id)
						delete(used, id)
					}
				}
			},
		})
	})
}
