// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package ebpf

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waggle-lb/waggle/lb"
)

// taken is what a rig holds of everything that is given out: elements of maps,
// ids, words of slots.
func (r *rig) taken() map[string]string {
	r.t.Helper()
	out := r.dump()
	r.do(errors.Join(dumpMap[uint32, uint64](out, r.d.gen.PeerBits), dumpMap[uint32, uint64](out, r.d.gen.MasqBits)))
	for what, value := range out {
		if strings.Contains(what, "(slots)") || strings.Contains(value, " Hash:0 ") || strings.HasPrefix(value, "{Hash:0 ") {
			delete(out, what) // what lies where nobody is any more
		}
	}
	s := r.d.state
	s.space.merge()
	ids := func(space *idSpace) string {
		fresh := newIDSpace(space.max)
		return fmt.Sprint(!slices.Equal(space.used, fresh.used))
	}
	out["service ids"], out["backend ids"] = ids(s.serviceIDs), ids(s.backendIDs)
	out["slots"] = fmt.Sprintf("from 1 to %d, but for %v; %v rest", s.space.next, s.space.free, s.space.resting)
	out["state"] = fmt.Sprint(len(s.records), len(s.owners), len(s.marks), len(s.draining), len(s.unhealthy), len(s.gone), len(s.mhTables), len(s.stuck))
	return out
}

// Whatever services there were, with flows or without, also those that failed as
// a map was full: when all have gone and rested nothing is left of them.
func TestAllIsGivenBack(t *testing.T) {
	for seed := range uint64(2) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			r := newRig(t, map[string]uint32{"slots": 1 << 12, "services": 6, "backends": 20, "load": 20, "backend_ids": 20, "vips": 14})
			rng := rand.New(rand.NewPCG(seed, 8))
			r.apply()
			before := r.taken()
			failed, served := 0, 0
			for range 200 {
				rep := r.d.Apply(r.snapshot(changing(rng)...))
				r.do(rep.Err)
				failed += len(rep.Failed)
				for n := range 6 {
					if r.syn(1+n) > 0 {
						served++
					}
				}
				r.age(grace / 3)
				if rng.IntN(8) == 0 {
					r.Advance(2 * time.Minute) // flows end
				}
			}
			if failed == 0 || served == 0 {
				t.Errorf("%d services failed, %d clients were served; the test shows nothing", failed, served)
			}
			if d := cmp.Diff(before, r.taken()); d == "" {
				t.Error("nothing is taken while there are services; the test shows nothing")
			}
			r.apply()
			r.Advance(time.Hour)
			r.Advance(2 * time.Second)
			r.age(grace) // backends
			r.age(grace) // services
			if d := cmp.Diff(before, r.taken()); d != "" {
				t.Errorf("taken (-before +after):\n%s", d)
			}
		})
	}
}

// changing are some of six services, each different every time.
func changing(rng *rand.Rand) (out []*lb.Service) {
	for n := 1; n <= 6; n++ {
		if rng.IntN(3) == 0 {
			continue
		}
		svc := serve(fmt.Sprint("service-", n), rng.Perm(12)[:rng.IntN(8)], n)
		svc.Scheduler = []string{"rr", "wrr", "lc", "nq", "sh", "mh", "none"}[rng.IntN(7)]
		if n%2 == 0 {
			svc.SetMasquerade(lb.MasqueradeAlways)
		}
		if n == 3 {
			svc.Affinity = lb.Affinity{Timeout: time.Minute, Prefix: 32}
		}
		for i := range svc.Backends {
			b := &svc.Backends[i]
			b.Addr, b.Weight, b.Unhealthy = serverAt(numberOf(b.Addr)+1), uint16(rng.IntN(4)), rng.IntN(6) == 0
		}
		out = append(out, svc)
	}
	return out
}
