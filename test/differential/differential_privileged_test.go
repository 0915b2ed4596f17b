// SPDX-License-Identifier: Apache-2.0

//go:build privileged && ipvs

// Package differential_test plays one script to the kernel's IPVS and to the eBPF
// dataplane, and compares who is picked, and what is counted, step by step.
//
// Each has a machine of its own: a network namespace, a router between a wire to
// clients and a wire to servers. IPVS is what an administrator makes of it: ipvsadm -R
// restores a rules file, and sysctls say the rest. waggle reads the same file as
// `waggle run --services` does, is attached to the devices, and runs all of its tasks.
// A change is one call of netlink on the one side, as ipvsadm -a, -e and -d make it, and
// on the other a file with another line.
//
// Nobody is at the far ends of the wires but the test, which sends the same frames to
// both machines and looks what comes out: who got it, from which address, or which
// answer. Frames are cheaper than sockets where instructions are emulated (a connection
// is some four frames of half a millisecond on each side), clients may have any
// address, and no stack answers, retransmits or remembers on its own. IPVS can be had
// by packets of a device only, not by BPF_PROG_TEST_RUN: so both are driven that way.
//
// The script is random, and a seed, which every failure names, makes it again, but for
// what depends on time: an epoch, which is a set of rules, ends before connections that
// are left alone do. Only the end of those that were reset is waited for.
package differential_test

import (
	"flag"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/lb"
)

var (
	connections = flag.Int("connections", 500, "how many of each scheduler, in each family")
	every       = flag.Int("every", 4, "after how many operations connections are counted; after changes they always are")
	seedFlag    = flag.Uint64("seed", 0, "of the script; 0: by the clock")
)

// perEpoch is how many connections of a scheduler have the same rules.
const perEpoch = 100

func TestPicksAndCountsOfIPVS(t *testing.T) {
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	for _, f := range []lb.Family{lb.IPv4, lb.IPv6} {
		t.Run(f.String(), func(t *testing.T) {
			fmt.Fprintf(t.Output(), "-seed %d\n", seed)
			w := newWorld(t, f, seed)
			for w.least() < *connections && !t.Failed() {
				w.begin(mode{reuse: w.rng.IntN(3) > 0, expire: w.rng.IntN(3) == 0, quiescent: w.rng.IntN(2) == 0})
				w.play()
			}
			w.settle()
			w.compareTraffic()
			for _, name := range slices.Sorted(maps.Keys(w.tally)) {
				n := w.tally[name]
				fmt.Fprintf(t.Output(), "%s: %d connections, %d packets, %d changes\n", name, n.connections, n.packets, n.changes)
			}
		})
	}
}

// least is how many connections were made of the scheduler that has the fewest.
func (w *world) least() int {
	if len(w.tally) == 0 {
		return 0
	}
	least := slices.MinFunc(slices.Collect(maps.Values(w.tally)), func(a, b *tally) int { return a.connections - b.connections })
	return least.connections
}
