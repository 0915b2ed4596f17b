// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package main

import (
	"testing"
)

// TestPacketsBecomeWhatTheModelSays is the sample of `make fuzz`. Its seed is
// fixed, so that a failure is the change's that it is first seen with.
func TestPacketsBecomeWhatTheModelSays(t *testing.T) {
	before, err := kernelWarnings()
	if err != nil {
		t.Fatal(err)
	}
	res, err := runAlone(options{seed: 31, packets: 1_000_000})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d packets, %.0f a second", res.packets, float64(res.packets)/res.elapsed.Seconds())
	if err := res.judge(before); err != nil {
		t.Error(err)
	}
}

// TestADifferenceIsSeenAndExplained runs programs that choose other ports than
// the model knows.
func TestADifferenceIsSeenAndExplained(t *testing.T) {
	_, err := runAlone(options{seed: 1, packets: 100_000, otherPorts: true})
	if err == nil {
		t.Fatal("100,000 packets, and nobody saw that ports differ")
	}
	wantWords(t, err.Error(), "world 1", "packet ", "before it:", "want", "the packet, device")
}
