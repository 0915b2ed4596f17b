// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/maps/batch"
	"github.com/waggle-lb/waggle/maps/stats"
)

// compareRest is what is looked at less often: counters, fragments, direct
// connections.
func (m *model) compareRest(k *kernel) error {
	wrong := errors.Join(m.compareRuns(k), m.compareRing(k))
	err := stats.EachStats(k.Stats, lastBackend, func(id uint32, got bpf.LBBackendStats) {
		var want bpf.LBBackendStats
		if s := m.stats[id]; s != nil {
			want = *s
		}
		if got != want {
			wrong = errors.Join(wrong, fmt.Errorf("stats of %d: %+v, want %+v", id, got, want))
		}
	})
	if err != nil {
		return err
	}
	for name, x := range map[string]struct {
		m    *ebpf.Map
		want int
	}{"held": {k.Held, m.heldCount}, "direct": {k.Direct, len(m.direct)}} {
		n, err := countKeys(x.m, false)
		if err != nil {
			return err
		}
		if n != x.want {
			wrong = errors.Join(wrong, fmt.Errorf("%s: %d, want %d", name, n, x.want))
		}
	}
	return errors.Join(wrong, m.compareFragments(k))
}

func (m *model) compareFragments(k *kernel) error {
	var wrong error
	n := 0
	err := batch.Each(k.Fragments, func(key bpf.LBFragmentKey, got *bpf.LBFragment) error {
		n++
		d := datagram{src: key.Saddr, dst: key.Daddr, proto: key.Proto}
		binary.NativeEndian.PutUint32(d.id[:], key.Id)
		want := bpf.LBFragment{}
		if p := m.datagrams[d]; p != nil {
			want = bpf.LBFragment{Sport: p.sport, Dport: p.dport, Held: uint32(p.held), Backend: p.backend}
			if p.known {
				want.Known = uint32(p.proto)
			}
		}
		if *got != want {
			wrong = errors.Join(wrong, fmt.Errorf("fragments of %v -> %v: %+v, want %+v", netip.AddrFrom16(d.src), netip.AddrFrom16(d.dst), *got, want))
		}
		return nil
	})
	if n != len(m.datagrams) {
		wrong = errors.Join(wrong, fmt.Errorf("fragments: of %d datagrams, want %d", n, len(m.datagrams)))
	}
	return errors.Join(err, wrong)
}

// countKeys counts a map's keys, and deletes them if told to.
func countKeys(m *ebpf.Map, remove bool) (int, error) {
	var keys [][]byte
	var prev any
	for {
		k, err := m.NextKeyBytes(prev)
		if err != nil {
			return 0, fmt.Errorf("read %v: %w", m, err)
		}
		if k == nil {
			break
		}
		keys = append(keys, k)
		prev = k
	}
	for _, k := range keys {
		if remove {
			if err := m.Delete(k); err != nil {
				return 0, fmt.Errorf("empty %v: %w", m, err)
			}
		}
	}
	return len(keys), nil
}
