// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package ebpf

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	cilium "github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/dataplane/conformance"
	"github.com/waggle-lb/waggle/maps/devices"
)

// pool lends rigs to one case after another: to load the programs takes far
// longer than most cases do, and it is the verifier's time.
type pool struct {
	t    *testing.T // whose end is theirs
	mu   sync.Mutex
	rigs []*rig
}

// lend returns a rig that is as a new one, until the end of t.
func (p *pool) lend(t *testing.T) *rig {
	p.mu.Lock()
	defer p.mu.Unlock()
	var r *rig
	if n := len(p.rigs); n > 0 {
		r, p.rigs = p.rigs[n-1], p.rigs[:n-1]
	} else {
		r = newRig(p.t, nil)
	}
	r.t = t
	t.Cleanup(func() {
		defer func() { r.t = p.t }()
		if t.Failed() {
			return // who knows what is left in it
		}
		r.reset()
		p.mu.Lock()
		defer p.mu.Unlock()
		p.rigs = append(p.rigs, r)
	})
	return r
}

// reset takes away what a case left behind. A process that never applied
// anything becomes one that applied nothing.
func (r *rig) reset() {
	r.t.Helper()
	r.apply()
	r.assigned, r.masq, r.followed = map[netip.Addr]bool{}, devices.Device{}, nil
	g := r.d.gen
	r.do(errors.Join(
		empty(g.Flows), empty(g.Direct), empty(g.Affinity), empty(g.Fragments), empty(g.Held),
		zero(g.Load, bpf.LBBackendLoad{}), zero(g.Resourced, uint32(0)), zero(g.HalfOpenEnds, bpf.LBHalfOpenRing{}), zeroPerCPU(g.Drops),
	))
	skew := time.Until(r.d.state.now()) + 2*grace
	r.d.state.now = func() time.Time { return time.Now().Add(skew) }
	for range 2 { // backends, then their services
		r.do(r.d.state.reap())
	}
	if n := len(r.d.state.records); n > 0 {
		r.t.Errorf("%d services are left after the case", n)
	}
}

func empty(m *cilium.Map) error {
	for {
		key, err := m.NextKeyBytes(nil)
		if err != nil || key == nil {
			return err
		}
		if err := m.Delete(key); err != nil {
			return fmt.Errorf("empty %s: %w", m, err)
		}
	}
}

func zero[V any](m *cilium.Map, v V) error {
	keys := make([]uint32, m.MaxEntries())
	values := make([]V, len(keys))
	for i := range keys {
		keys[i], values[i] = uint32(i), v
	}
	if _, err := m.BatchUpdate(keys, values, nil); err != nil {
		return fmt.Errorf("zero %s: %w", m, err)
	}
	return nil
}

func zeroPerCPU(m *cilium.Map) error {
	cpus, err := cilium.PossibleCPU()
	if err != nil {
		return err
	}
	for i := range m.MaxEntries() {
		if err := m.Put(i, make([]uint64, cpus)); err != nil {
			return fmt.Errorf("zero %s: %w", m, err)
		}
	}
	return nil
}

func TestConformance(t *testing.T) {
	p := &pool{t: t}
	conformance.Run(t, func(t *testing.T) conformance.Rig { return p.lend(t) })
}
