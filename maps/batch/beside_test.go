// SPDX-License-Identifier: Apache-2.0

package batch_test

import (
	"testing"

	"github.com/waggle-lb/waggle/maps/batch"
)

func TestBesideWorksOnAllInOrder(t *testing.T) {
	for _, n := range []int{0, 1, 4095, 4096, 4097, 50_000} {
		var got []int
		b := batch.NewBeside(func(list []int) { got = append(got, list...) })
		for i := range n {
			b.Put(i)
		}
		b.Flush()
		for i, v := range got {
			if i != v {
				t.Fatalf("of %d: %d comes at place %d", n, v, i)
			}
		}
		if len(got) != n {
			t.Errorf("of %d: %d were worked on", n, len(got))
		}
	}
}
