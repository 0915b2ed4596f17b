// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package info

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/maps/maptest"
)

func TestNamesAreWrittenAndReadBack(t *testing.T) {
	table := Services{Map: maptest.New(t, "service_info", 8)}
	long := Service{lb.ServiceID{Name: strings.Repeat("n", MaxName), Family: lb.IPv6}, strings.Repeat("s", MaxScheduler), lb.SchedulerPort}
	longer := Service{lb.ServiceID{Name: long.ID.Name + "xyz", Family: lb.IPv4}, long.Scheduler + "xyz", 0}
	web := Service{lb.ServiceID{Name: "web", Family: lb.IPv4}, "rr", 0}
	want := make(map[uint64]Service)
	for _, s := range []Service{web, long, longer, {}} {
		if err := table.Put(s); err != nil {
			t.Fatal(err)
		}
		want[s.ID.Hash()] = s
	}
	cut := longer
	cut.ID.Name, cut.Scheduler = long.ID.Name, long.Scheduler
	want[longer.ID.Hash()] = cut
	wantNames(t, table, want)
	web.Scheduler, web.Flags = "sh", lb.SchedulerFallback
	if err := table.Put(web); err != nil {
		t.Fatal(err)
	}
	want[web.ID.Hash()] = web
	wantNames(t, table, want)
	delete(want, web.ID.Hash())
	for range 2 { // it may be absent
		if err := table.Delete(web.ID.Hash()); err != nil {
			t.Error(err)
		}
	}
	wantNames(t, table, want)
}

func wantNames(t *testing.T, table Services, want map[uint64]Service) {
	t.Helper()
	got := make(map[uint64]Service)
	err := table.Each(func(hash uint64, s Service) { got[hash] = s })
	if d := cmp.Diff(want, got); d != "" || err != nil {
		t.Errorf("error %v, names (-want +got):\n%s", err, d)
	}
}

func TestClocksOfThisLayoutOnlyAreRead(t *testing.T) {
	meta := maptest.New(t, "meta", 1)
	if _, err := ReadClocks(meta); err == nil || !strings.Contains(err.Error(), "layout 0") {
		t.Errorf("a map that was never completed: %v", err)
	}
	want := Clocks{Hz: 250, Jiffies: 1 << 40, Ktime: 1 << 50, Timeouts: Timeouts{1: 900, 15: 1<<32 - 1}}
	if err := want.Put(meta); err != nil {
		t.Fatal(err)
	}
	if got, err := ReadClocks(meta); err != nil || got != want {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	for _, v := range []bpf.LBClocks{
		{Layout: uint32(bpf.LBLimitsLAYOUT_VERSION) + 1, Hz: 250},
		{Layout: uint32(bpf.LBLimitsLAYOUT_VERSION)},
	} {
		if err := meta.Put(uint32(0), v); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadClocks(meta); err == nil || !strings.Contains(err.Error(), "use the version of waggle that made it") {
			t.Errorf("layout %d, %d jiffies a second: %v", v.Layout, v.Hz, err)
		}
	}
}
