// SPDX-License-Identifier: Apache-2.0

// Command fuzz sends packets through every program by BPF_PROG_TEST_RUN:
// valid ones that meet each other, changed ones and noise. A model of the
// rules in Go says beforehand what becomes of each: verdict, bytes out, what is
// sent, counters, loads, flows, affinity, fragments, and where runs stand. The
// first difference ends the run, with the packet and what came before it; the
// same -seed gives the same packets, unless the machine is too busy. Root.
package main

import (
	"flag"
	"fmt"
	"os"
	"time"
)

func main() {
	packets := flag.Uint64("packets", 1_000_000, "how many")
	seed := flag.Uint64("seed", 0, "repeat this run; 0: a new one")
	flag.Parse()
	if *seed == 0 {
		*seed = uint64(time.Now().UnixNano())
	}
	if err := fuzz(*packets, *seed); err != nil {
		fmt.Fprintln(os.Stderr, "fuzz:", err)
		os.Exit(1)
	}
}

func fuzz(packets, seed uint64) error {
	fmt.Printf("seed %d\n", seed)
	start := time.Now()
	info, err := os.Stderr.Stat()
	terminal := err == nil && info.Mode()&os.ModeCharDevice != 0
	o := options{seed: seed, packets: packets}
	if terminal {
		o.progress = func(done uint64) {
			fmt.Fprintf(os.Stderr, "\r%d of %d packets, %.0f a second ", done, packets, float64(done)/time.Since(start).Seconds())
		}
	}
	before, err := kernelWarnings()
	if err != nil {
		return err
	}
	res, err := runAlone(o)
	if terminal {
		fmt.Fprintln(os.Stderr)
	}
	if err != nil {
		return err
	}
	if err := res.rules.print(os.Stdout); err != nil {
		return err
	}
	fmt.Printf("%d packets in %s, %.0f a second\n", res.packets, res.elapsed.Round(time.Second), float64(res.packets)/res.elapsed.Seconds())
	return res.judge(before)
}
