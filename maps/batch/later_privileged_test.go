// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package batch_test

import (
	"testing"

	"github.com/waggle-lb/waggle/maps/batch"
	"github.com/waggle-lb/waggle/maps/maptest"
)

func TestLaterIsWrittenByFlushAlone(t *testing.T) {
	m := maptest.New(t, "backend_ids", 20_000)
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
	do(later.Delete(m, n+1)) // never there
	count := func() (entries int) {
		do(batch.Each(m, func(k uint64, v *uint32) error {
			if *v != uint32(k+1) {
				t.Fatalf("%d leads to %d", k, *v)
			}
			entries++
			return nil
		}))
		return entries
	}
	if got := count(); got != 0 {
		t.Errorf("%d entries before the flush", got)
	}
	do(later.Flush(m))
	if got := count(); got != n-1 {
		t.Errorf("%d entries after the flush, want %d", got, n-1)
	}
	do(later.Put(m, n, n+1)) // at once from now on
	do(later.Delete(m, 8))
	if got := count(); got != n-1 {
		t.Errorf("%d entries, want %d", got, n-1)
	}
}

func TestAFullMapFailsTheFlush(t *testing.T) {
	m, later := maptest.New(t, "backend_ids", 4), batch.NewLater[uint64, uint32]()
	for k := range uint64(5) {
		if err := later.Put(m, k, 1); err != nil {
			t.Fatal(err)
		}
	}
	if err := later.Flush(m); err == nil {
		t.Error("five entries are in a map of four")
	}
}
