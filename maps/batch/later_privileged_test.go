// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package batch_test

import (
	"testing"

	"github.com/waggle-lb/waggle/maps/batch"
	"github.com/waggle-lb/waggle/maps/maptest"
)

func TestLaterWritesAllByItsFlush(t *testing.T) {
	m := maptest.Hash(t, 20_000)
	later := batch.NewLater[uint64, uint32]()
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	const n = 10_000
	for k := range uint64(n) {
		do(later.Put(m, k, uint32(k)))
		do(later.Put(m, k, uint32(k+1))) // the last one counts
	}
	do(later.Delete(m, 7))
	do(later.Delete(m, n-1)) // a moment ago
	do(later.Delete(m, n+1)) // never there
	do(later.Put(m, n-1, n))
	do(later.Flush())
	entries := 0
	do(batch.Each(m, func(k uint64, v *uint32) error {
		if *v != uint32(k+1) {
			t.Fatalf("%d leads to %d", k, *v)
		}
		entries++
		return nil
	}))
	if entries != n-1 {
		t.Errorf("%d entries after the flush, want %d", entries, n-1)
	}
}

// Whoever puts more than a batch may not learn that one before failed: all of it does.
func TestAFullMapFailsTheFlush(t *testing.T) {
	for _, entries := range []uint64{5, 20_000} {
		m, later := maptest.Hash(t, 4), batch.NewLater[uint64, uint32]()
		for k := range entries {
			if err := later.Put(m, k, 1); err != nil {
				t.Fatal(err)
			}
		}
		if err := later.Flush(); err == nil {
			t.Errorf("%d entries are in a map of four", entries)
		}
	}
}
