// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package loader

import (
	"path/filepath"
	"testing"

	"github.com/waggle-lb/waggle/bpf"
)

// A process may die before the larger load has its place: then nothing was
// carried, and nothing is.
func TestACarryThatDidNotBeginIsForgotten(t *testing.T) {
	p := newPlace(t)
	l := p.open()
	g := p.publish(l)
	p.do(g.Load.Put(uint32(3), bpf.LBBackendLoad{Active: 7}))
	larger, err := l.NewGeneration(map[string]uint32{"backends": 4096, "backend_ids": 4096, "load": 4096, "stats": 4096})
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
