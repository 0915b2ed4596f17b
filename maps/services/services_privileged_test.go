// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package services

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/lb/sched"
	"github.com/waggle-lb/waggle/maps/maptest"
)

func TestServicesAreWrittenAsProgramsReadThem(t *testing.T) {
	m := maptest.New(t, "services", 300)
	table, err := Open(m)
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	pools := map[uint32]Pool{
		1:   {Base: 17, Count: 3, Rule: sched.Cursor},
		7:   {Rule: sched.Hash, Flags: sched.HashPort}, // a service without a backend
		8:   {},                                        // one that is gone
		299: {Base: 1, Count: MaxCount, Rule: sched.Least, Flags: sched.LeastIdle},
	}
	want := make(map[uint32]Pool)
	set := Settings{Affinity: 1<<32 - 1, Prefix: 120, Options: bpf.LBServiceOptionsSERVICE_LOST_DROP}
	for i, p := range pools {
		table.SetHash(i, 0xfeed0000_00000000|uint64(i))
		local := Pool{Base: p.Base + 5, Count: 1, Rule: p.Rule}
		table.Publish(i, lb.Cluster, p)
		table.Publish(i, lb.Local, local)
		table.Set(i, set)
		want[i] = p
		var got bpf.LBService
		if err := m.Lookup(i, &got); err != nil || got != (bpf.LBService{Hash: 0xfeed0000_00000000 | uint64(i), Pool: p.Word(), Local: local.Word(), Affinity: 1<<32 - 1, Prefix: 120, Options: uint8(set.Options)}) {
			t.Errorf("service %d: %+v, %v", i, got, err)
		}
		if table.Pool(i, lb.Cluster) != p || table.Pool(i, lb.Local) != local || table.Hash(i) != got.Hash {
			t.Errorf("service %d reads back as %#x, %+v", i, table.Hash(i), table.Pool(i, lb.Cluster))
		}
	}
	table.Publish(5, lb.Cluster, Pool{Base: 9, Count: 1, Rule: sched.Cursor}) // nobody's: it has no hash
	got := make(map[uint32]Pool)
	err = Each(m, func(i uint32, hash uint64, p, local Pool, s Settings) {
		if local.Base != p.Base+5 || hash != 0xfeed0000_00000000|uint64(i) || s != set {
			t.Errorf("service %d has hash %#x, %+v", i, hash, s)
		}
		got[i] = p
	})
	if d := cmp.Diff(want, got); d != "" || err != nil {
		t.Errorf("error %v, used services (-want +got):\n%s", err, d)
	}
}
