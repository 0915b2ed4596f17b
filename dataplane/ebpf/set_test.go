// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"slices"
	"testing"
)

func TestASetHasEachElementOnce(t *testing.T) {
	for _, n := range []int{0, 1, few, few + 1, 100} {
		var s set[int]
		for range 2 {
			for i := range n {
				s.add(i)
			}
		}
		if got := slices.Sorted(s.all()); len(got) != n || n > 0 && got[n-1] != n-1 {
			t.Errorf("of %d: %v", n, got)
		}
		if !s.add(n) || s.add(n) || s.add(0) && n > 0 {
			t.Errorf("of %d: what is new is not told from what is there", n)
		}
	}
}
