// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package bpf_test

import (
	"testing"

	"github.com/waggle-lb/waggle/bpf"
)

// What says that a backend is overloaded may be left over from a threshold that
// it no longer has: a program on another CPU may have read the old one.
func TestABackendWithoutThresholdIsNeverOverloaded(t *testing.T) {
	f := families()[0]
	for _, rule := range []bpf.LBRule{bpf.LBRuleRULE_CURSOR, bpf.LBRuleRULE_HASH, bpf.LBRuleRULE_LEAST} {
		p := setup(t, f, 1)
		p.pool(1, rule, 0, 1)
		p.do(p.Load.Put(uint32(1), bpf.LBBackendLoad{Overloaded: 1}))
		if got := p.order(f, 1, 1); got[0] != 1 {
			t.Errorf("rule %d: picked %d, want 1", rule, got[0])
		}
	}
}
