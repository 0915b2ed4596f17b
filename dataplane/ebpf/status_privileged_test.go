// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package ebpf

import (
	"testing"

	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/lb"
)

func (r *rig) fills() map[string]dataplane.Fill {
	r.t.Helper()
	s, err := r.pinned().Status()
	r.do(err)
	out := make(map[string]dataplane.Fill)
	for _, f := range s.Maps {
		out[f.Map] = f
	}
	if f := out["flows"]; s.Entries != f.Used || s.Limit != f.Limit || s.HalfOpen != uint64(out["half_open"].Used) {
		r.t.Errorf("status %+v contradicts its maps", s)
	}
	return out
}

// wantUsed compares how many places of maps are used, and that all maps have
// their limit.
func (r *rig) wantUsed(want map[string]uint32) {
	r.t.Helper()
	got := r.fills()
	for name, n := range want {
		if got[name].Used != n {
			r.t.Errorf("%s: %d used, want %d", name, got[name].Used, n)
		}
	}
	for name, f := range got {
		if n, ok := r.entries[name]; ok && f.Limit != n {
			r.t.Errorf("%s: limit %d, want %d", name, f.Limit, n)
		}
	}
}

func TestPinsSayHowFullEveryMapIs(t *testing.T) {
	r := newRig(t, nil)
	mh, shared := serve("mh", from(1, 4), 3), serve("mh2", from(1, 4), 4)
	least := serve("lc", from(5, 7), 2)
	mh.Scheduler, shared.Scheduler, least.Scheduler = "mh", "mh", "lc"
	mh.Affinity = lb.Affinity{Timeout: lb.MaxAffinity, Prefix: 32}
	r.apply(serve("web", from(1, 3), 1), least, mh, shared, serve("empty", nil, 5))
	r.connect(1)
	r.connect(3)
	r.begin(2)
	// rr: 2 words and 2 for its 3 backends; lc: 2 and 3; mh: twice 2 and 2, and one table of 4093 places, 4 a word
	words := uint32(4 + 5 + 2*4 + (4093+3)/4)
	backends := uint32(3 + 3 + 4 + 4)
	r.wantUsed(map[string]uint32{
		"flows": 6, "half_open": 1, "affinity": 1, "direct": 0, "fragments": 0, "held": 0, "vips": 10, "services": 5, "service_info": 5,
		"slots": words, "backends": backends, "vip_bits": 2 * 5, "backend_bits": 2 * 7, "masq_bits": 0,
	})

	// a backend that left is there until its connections have ended
	r.apply(serve("web", from(1, 2), 1))
	r.wantUsed(map[string]uint32{"vips": 2, "slots": 3, "flows": 6}) // 2 words and 1 for 2 backends
	if n := r.fills()["backends"].Used; n <= 2 {
		t.Errorf("%d backends, want web's and those that have flows", n)
	}
}

func TestStatusOfTheProcessAndOfThePinsAgree(t *testing.T) {
	r := newRig(t, nil)
	r.apply(serve("web", from(1, 3), 1))
	r.begin(1)
	mine, err := r.d.Status()
	r.do(err)
	pins, err := r.pinned().Status()
	r.do(err)
	if mine.Generation != pins.Generation || mine.HalfOpen != 1 || pins.HalfOpen != 1 || mine.Limit != pins.Limit {
		t.Errorf("the process says %+v, the pins %+v", mine, pins)
	}
	if mine.Method == "" || mine.Why == "" || pins.Method != "" {
		t.Errorf("attached by %q (%s), by the pins %q: want a method and a reason, and none that is pinned", mine.Method, mine.Why, pins.Method)
	}
}
