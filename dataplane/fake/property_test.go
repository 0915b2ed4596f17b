// SPDX-License-Identifier: Apache-2.0

package fake_test

import (
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/waggle-lb/waggle/dataplane/fake"
	"github.com/waggle-lb/waggle/lb"
	"pgregory.net/rapid"
)

// drawSnapshot draws a few services that fight for a few VIPs.
func drawSnapshot(t *rapid.T) *lb.Snapshot {
	const vips = 5
	owner := rapid.SliceOfN(rapid.IntRange(0, 4), vips, vips).Draw(t, "owner of each VIP, 0: none")
	services := make(map[int]*lb.Service)
	for n, o := range owner {
		if o == 0 {
			continue
		}
		svc := services[o]
		if svc == nil {
			svc = service(string(rune('a'-1+o)), n)
			svc.Frontends = nil
			servers := rapid.SliceOfNDistinct(rapid.IntRange(1, 5), 0, 4, rapid.ID[int]).Draw(t, "servers")
			for _, s := range servers {
				svc.Backends = append(svc.Backends, lb.Backend{Addr: server(s), Weight: uint16(rapid.IntRange(0, 3).Draw(t, "weight"))})
			}
			services[o] = svc
		}
		svc.Frontends = append(svc.Frontends, lb.Frontend{Addr: vip(n), Protocol: lb.TCP})
	}
	var list []*lb.Service
	for _, svc := range services {
		list = append(list, svc)
	}
	return snapshot(t, list...)
}

// wantOutcome holds a report against what was there, what was wanted and what
// is there now.
func wantOutcome(t *rapid.T, d *fake.Dataplane, before, wanted *lb.Snapshot, failed map[lb.ServiceID]error) {
	now, err := d.Read()
	if err != nil {
		t.Fatalf("read: %v", err)
	}
	for i := 1; i <= 4; i++ {
		name := id(string(rune('a' - 1 + i)))
		want := wanted.Service(name)
		if failed[name] != nil {
			want = before.Service(name)
		}
		if got := now.Service(name); (got == nil) != (want == nil) || got != nil && !got.Equal(want) {
			t.Fatalf("%s: held %v, want %v, failed: %v", name, got, want, failed[name])
		}
	}
}

func TestRandomSnapshotsConvergeInSpiteOfFaults(t *testing.T) {
	faulty := 0
	rapid.Check(t, func(t *rapid.T) {
		random := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		d := fake.New(fake.Options{Fail: func(op fake.Op, _ lb.ServiceID) error {
			if op != fake.OpRead && random.IntN(10) == 0 {
				return errFault
			}
			return nil
		}})
		for range rapid.IntRange(1, 6).Draw(t, "snapshots") {
			wanted := drawSnapshot(t)
			for try := 0; ; try++ {
				before, err := d.Read()
				if err != nil {
					t.Fatalf("read: %v", err)
				}
				rep := d.Apply(wanted)
				if rep.Err != nil {
					wantOutcome(t, d, before, before, nil)
				} else {
					wantOutcome(t, d, before, wanted, rep.Failed)
				}
				if rep.Err == nil && len(rep.Failed) == 0 {
					break
				}
				faulty++
				if try == 200 {
					t.Fatalf("no end after %d tries: %+v", try, rep)
				}
			}
			got, err := d.Read()
			if err != nil {
				t.Fatalf("read: %v", err)
			}
			if diff := cmp.Diff(describe(wanted), describe(got)); diff != "" {
				t.Fatalf("held services (-want +got):\n%s", diff)
			}
		}
	})
	if faulty == 0 {
		t.Errorf("no fault was met: the test shows nothing")
	}
}
