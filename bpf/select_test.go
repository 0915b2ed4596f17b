// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package bpf_test

import (
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/lb"
)

// order returns which servers (1, 2, …) the next n UDP flows go to; 0: refused.
func (p *programs) order(f family, from uint16, n int) (out []int) {
	p.t.Helper()
	for i := range n {
		got := p.picked(f, lb.UDP, from+uint16(i), 0)
		id := 0
		for j, s := range f.servers {
			if s == got {
				id = j + 1
			}
		}
		out = append(out, id)
	}
	return out
}

func setup(t *testing.T, f family, weights ...uint16) *programs {
	p := load(t)
	for i, w := range weights {
		p.backend(uint32(i+1), f.servers[i], w)
	}
	p.vip(f.vip, lb.UDP, 1)
	return p
}

func TestRuleCursorWalksTheRun(t *testing.T) {
	for _, f := range families() {
		p := setup(t, f, 1, 1, 1)
		p.pool(1, bpf.LBRuleRULE_CURSOR, 0, 3, 1, 1, 2, 1)
		if d := cmp.Diff([]int{3, 1, 1, 2, 1, 3, 1}, p.order(f, 1, 7)); d != "" {
			t.Error(d)
		}
	}
}

func TestRuleLeast(t *testing.T) {
	const weighted, expected, idle = 1, 2, 4
	tests := []struct {
		name    string
		flags   uint64
		weights []uint16
		loads   []bpf.LBBackendLoad
		want    int
	}{
		{"ties go to the first", 0, []uint16{1, 1, 1}, []bpf.LBBackendLoad{{Active: 1}, {Active: 1}, {Active: 1}}, 1},
		{"the least", 0, []uint16{1, 1, 1}, []bpf.LBBackendLoad{{Active: 2}, {Active: 1}, {Active: 1}}, 2},
		{"an active one weighs 257 inactive", 0, []uint16{1, 1, 0}, []bpf.LBBackendLoad{{Inactive: 258}, {Active: 1}, {}}, 2},
		{"weight divides", weighted, []uint16{1, 3, 1}, []bpf.LBBackendLoad{{Active: 1}, {Active: 2}, {Active: 1}}, 2},
		{"nobody with weight", 0, []uint16{0, 0, 0}, make([]bpf.LBBackendLoad, 3), 0},
		{"expected delay ignores inactive", expected | weighted, []uint16{1, 2, 1}, []bpf.LBBackendLoad{{}, {Inactive: 9}, {}}, 2},
		{"never queue takes the idle", expected | weighted | idle, []uint16{9, 1, 1}, []bpf.LBBackendLoad{{Active: 1}, {Active: 1}, {}}, 3},
		{"never queue falls back to the least", expected | weighted | idle, []uint16{9, 1, 1}, []bpf.LBBackendLoad{{Active: 1}, {Active: 1}, {Active: 3}}, 1},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			f := families()[0]
			p := setup(t, f, tc.weights...)
			p.pool(1, bpf.LBRuleRULE_LEAST, tc.flags, 1, 2, 3)
			for i, l := range tc.loads {
				p.do(p.Load.Put(uint32(i+1), l))
			}
			if got := p.order(f, 1, 1); got[0] != tc.want {
				t.Errorf("picked %d, want %d", got[0], tc.want)
			}
		})
	}
}

// bucket says again, in Go, which of n slots rule HASH takes.
func bucket(a netip.Addr, sport uint16, n uint64) uint64 {
	var x uint32
	b := a.As16()
	if a.Is4() {
		x = uint32(b[12])<<24 | uint32(b[13])<<16 | uint32(b[14])<<8 | uint32(b[15])
	} else {
		for i, c := range b {
			x ^= uint32(c) << (24 - 8*(i&3))
		}
	}
	return uint64((x+uint32(sport))*0x61C88647) * n >> 32
}

func TestRuleHash(t *testing.T) {
	const withPort, dest, fallback = 1, 2, 4
	for _, f := range families() {
		t.Run(f.name, func(t *testing.T) {
			p := setup(t, f, 1, 1, 1)
			run := []uint32{1, 2, 3, 1, 2, 3, 3, 2}
			n := uint64(len(run))
			p.pool(1, bpf.LBRuleRULE_HASH, 0, run...)
			want := int(run[bucket(f.client.Addr(), 0, n)])
			if d := cmp.Diff([]int{want, want, want}, p.order(f, 1, 3)); d != "" {
				t.Error("by source", d)
			}
			p.pool(1, bpf.LBRuleRULE_HASH, withPort, run...)
			var wants []int
			for i := range 40 {
				wants = append(wants, int(run[bucket(f.client.Addr(), uint16(100+i), n)]))
			}
			if d := cmp.Diff(wants, p.order(f, 100, 40)); d != "" {
				t.Error("by source and port", d)
			}
			p.pool(1, bpf.LBRuleRULE_HASH, dest, run...)
			if got, want := p.order(f, 200, 1)[0], int(run[bucket(f.vip.Addr(), 0, n)]); got != want {
				t.Errorf("by destination %d, want %d", got, want)
			}
			chosen := run[bucket(f.client.Addr(), 0, n)]
			p.backend(chosen, f.servers[chosen-1], 0)
			p.pool(1, bpf.LBRuleRULE_HASH, 0, run...)
			if got := p.order(f, 300, 1)[0]; got != 0 {
				t.Errorf("quiesced without fallback: picked %d", got)
			}
			p.pool(1, bpf.LBRuleRULE_HASH, fallback, run...)
			h := bucket(f.client.Addr(), 0, n)
			for off := uint64(0); ; off++ {
				if id := run[((off+h)%n+h)%n]; id != chosen {
					if got := p.order(f, 400, 1)[0]; got != int(id) {
						t.Errorf("fallback %d, want %d", got, id)
					}
					break
				}
			}
		})
	}
}

// Those that know two flow tables are loaded only while it grows: they may take
// the verifier twice as long.
func TestEveryProgramIsWithinTheVerifierBudget(t *testing.T) {
	for growing, budget := range map[bool]uint32{false: 100_000, true: 200_000} {
		var without []string
		if growing { // once the forms that every kernel takes
			without = []string{"sweep", "walk_sockets"}
		}
		p := loadSpec(t, map[string]any{"growing": growing}, without...)
		for name, prog := range map[string]interface {
			Info() (*ebpf.ProgramInfo, error)
		}{
			"tc_ingress": p.TcIngress, "tc_egress": p.TcEgress, "tc_ingress_l3": p.TcIngressL3, "tc_egress_l3": p.TcEgressL3,
			"sweep": p.Sweep, "sweep_piece": p.SweepPiece, "move_piece": p.MovePiece,
			"walk_sockets": p.WalkSockets, "walk_files": p.WalkFiles,
		} {
			info, err := prog.Info()
			p.do(err)
			n, ok := info.VerifiedInstructions()
			t.Logf("%s, growing %v: %d", name, growing, n)
			if !ok || n > budget {
				t.Errorf("%s, growing %v: the verifier walks %d instructions (known: %v), more than %d", name, growing, n, ok, budget)
			}
		}
	}
}
