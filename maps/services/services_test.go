// SPDX-License-Identifier: Apache-2.0

package services

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/waggle-lb/waggle/lb/sched"
)

// The word is what docs/maps.md says, and the programs read.
func TestPoolWord(t *testing.T) {
	for p, want := range map[Pool]uint64{
		{}:        0,
		{Base: 1}: 1,
		{Base: 0x89abcdef, Count: 0x123456, Rule: sched.Least, Flags: sched.LeastWeighted | sched.LeastIdle}: 5<<60 | 3<<56 | 0x123456<<32 | 0x89abcdef,
		{Base: 1<<32 - 1, Count: MaxCount, Rule: 15, Flags: 15}:                                              1<<64 - 1,
	} {
		if got := p.Word(); got != want {
			t.Errorf("%+v: word %#x, want %#x", p, got, want)
		}
	}
}

func TestPoolWordsAndPoolsAreOneToOne(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := rapid.Uint64().Draw(t, "word")
		if got := ParseWord(w).Word(); got != w {
			t.Fatalf("word %#x comes back as %#x", w, got)
		}
		p := Pool{
			Base:  rapid.Uint32().Draw(t, "base"),
			Count: rapid.Uint32Max(MaxCount).Draw(t, "count"),
			Rule:  sched.Rule(rapid.Uint8Max(15).Draw(t, "rule")),
			Flags: sched.Flags(rapid.Uint8Max(15).Draw(t, "flags")),
		}
		if got := ParseWord(p.Word()); got != p {
			t.Fatalf("pool %+v comes back as %+v", p, got)
		}
	})
}
