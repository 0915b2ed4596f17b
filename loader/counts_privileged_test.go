// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package loader

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
)

// A process may die before the larger load has its place: then nothing was
// carried, and nothing is.
func TestACarryThatDidNotBeginIsForgotten(t *testing.T) {
	p := newPlace(t)
	l := p.open()
	g := p.publish(l)
	p.do(g.Load.Put(uint32(3), bpf.LBBackendLoad{Active: 7}))
	larger, err := l.NewGeneration(map[string]uint32{"backends": 4096, "backend_ids": 4096, "load": 4096})
	p.do(err)
	p.do(l.pinCarry(larger))
	p.do(larger.Close())
	p.do(l.Close())

	l = p.open()
	defer l.Close()
	if left, err := filepath.Glob(filepath.Join(p.pins, "load_*")); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
	if g = p.publish(l); g.Former != nil || g.Load.MaxEntries() != 1024 {
		t.Errorf("load has %d entries, and is to get more: %t", g.Load.MaxEntries(), g.Former != nil)
	}
	var got bpf.LBBackendLoad
	p.do(g.Load.Lookup(uint32(3), &got))
	if got.Active != 7 {
		t.Errorf("%+v, want 7 active", got)
	}
}

// A process may die between the pins of a larger load and of its stats: the next
// one makes a larger stats, and what is in the pinned one is there to be carried.
func TestStatsFollowTheSizeOfLoad(t *testing.T) {
	p := newPlace(t)
	l := p.open()
	g := p.publish(l)
	cpus := uint32(ebpf.MustPossibleCPU())
	p.do(g.Stats.Put(uint32(3), bpf.LBBackendStats{Connections: 7}))
	larger, err := l.NewGeneration(map[string]uint32{"backends": 4096, "backend_ids": 4096, "load": 4096})
	p.do(err)
	p.do(l.pinCarry(larger))
	p.do(pinOver(larger.Load, filepath.Join(p.pins, "load")))
	p.do(errors.Join(larger.Close(), l.Close()))

	l = p.open()
	defer l.Close()
	var got bpf.LBBackendStats
	p.do(l.Map("stats").Lookup(uint32(3), &got))
	if n := l.Map("stats").MaxEntries(); n != 1024*cpus || got.Connections != 7 {
		t.Errorf("%d elements are pinned, and %+v, want %d and 7 connections", n, got, 1024*cpus)
	}
	g = p.publish(l)
	if n := l.Map("stats").MaxEntries(); n != 4096*cpus || g.Stats.MaxEntries() != n {
		t.Errorf("%d elements are pinned, the programs have %d, want %d", n, g.Stats.MaxEntries(), 4096*cpus)
	}
}

func TestMoreBackendsThanStatsHasRoomForAreRefused(t *testing.T) {
	p := newPlace(t)
	l := p.open()
	defer l.Close()
	most, err := bpf.MostBackends()
	p.do(err)
	if most < 1<<20 || uint64(most)*uint64(ebpf.MustPossibleCPU()) >= 1<<31 {
		t.Errorf("room for %d backends", most)
	}
	if _, err := l.NewGeneration(map[string]uint32{"load": most + 1}); err == nil || !strings.Contains(err.Error(), "lower --backends-max") {
		t.Errorf("error %v, want it to name the flag", err)
	}
}
