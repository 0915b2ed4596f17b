// SPDX-License-Identifier: Apache-2.0

// Command bench measures what a packet costs in the loaded programs, by
// BPF_PROG_TEST_RUN. It pins itself to a CPU, counts the thread's CPU time,
// and prints minimum and median of several runs; docs/benchmarks.md explains
// the method and what it does not show.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"regexp"
	"runtime"
	"slices"
	"text/tabwriter"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// row is one line of the table. Times are ns a packet.
type row struct {
	Name   string  `json:"name"`
	Flows  int     `json:"flows"`
	Min    float64 `json:"minNs"`
	Median float64 `json:"medianNs"`
	Spread float64 `json:"spreadPercent"` // of the runs: (max-min)/min
	Net    float64 `json:"netNs"`         // median less the wrapper's median with a floor in place
}

func main() {
	runs := flag.Int("runs", 9, "measurements of each row; the table shows their minimum and median")
	packets := flag.Int("packets", 1<<18, "packets of each measurement")
	asJSON := flag.Bool("json", false, "print JSON instead of the table")
	match := flag.String("match", "", "measure only scenes whose name matches this regular expression, as `established TCP v4`")
	flag.Parse()
	if err := run(*runs, *packets, *asJSON, *match); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(runs, packets int, asJSON bool, match string) error {
	runtime.LockOSThread() // per-CPU maps and the clock are this thread's
	var cpus unix.CPUSet
	cpus.Set(runtime.NumCPU() - 1)
	if err := unix.SchedSetaffinity(0, &cpus); err != nil {
		return fmt.Errorf("pin to CPU %d: %w", runtime.NumCPU()-1, err)
	}
	only, err := regexp.Compile(match)
	if err != nil {
		return fmt.Errorf("-match: %w", err)
	}
	b, err := newBench(runs, packets)
	if err != nil {
		return err
	}
	b.only = only
	defer b.close()
	rows, err := b.all()
	if err != nil {
		return err
	}
	if asJSON {
		return json.NewEncoder(os.Stdout).Encode(rows)
	}
	return b.print(rows)
}

func (b *bench) print(rows []row) error {
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "PACKET\tFLOWS\tMIN ns\tMEDIAN ns\tSPREAD\tNET ns\t")
	for _, r := range rows {
		fmt.Fprintf(w, "%s\t%d\t%.1f\t%.1f\t%.0f%%\t%.1f\t\n", r.Name, r.Flows, r.Min, r.Median, r.Spread, r.Net)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Println()
	w = tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "PROGRAM\tVERIFIED INSTRUCTIONS\tJITED BYTES\t")
	for _, p := range []struct {
		name string
		prog *ebpf.Program
	}{{"tc_ingress", b.lb.TcIngress}, {"tc_egress", b.lb.TcEgress}, {"tc_ingress_l3", b.lb.TcIngressL3}, {"tc_egress_l3", b.lb.TcEgressL3}, {"sweep", b.lb.Sweep}, {"sweep_piece", b.lb.SweepPiece}} {
		info, err := p.prog.Info()
		if err != nil {
			return err
		}
		verified, _ := info.VerifiedInstructions()
		jited, _ := info.JitedSize()
		fmt.Fprintf(w, "%s\t%d\t%d\t\n", p.name, verified, jited)
	}
	return w.Flush()
}

// measure runs a program the given number of times and returns ns a packet of
// each run, sorted. prepare is called before each run, outside the clock.
func (b *bench) measure(prog *ebpf.Program, frame []byte, want uint32, packets int, prepare func() error) ([]float64, error) {
	var out []float64
	for range b.runs {
		if prepare != nil {
			if err := prepare(); err != nil {
				return nil, err
			}
		}
		opts := ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+256), Repeat: uint32(packets)}
		start := cpuTime()
		ret, err := prog.Run(&opts)
		spent := cpuTime() - start
		if err != nil {
			return nil, fmt.Errorf("run %v: %w", prog, err)
		}
		if ret != want {
			return nil, fmt.Errorf("run %v: verdict %d, want %d: not measuring what it should", prog, int32(ret), int32(want))
		}
		out = append(out, float64(spent)/float64(packets))
	}
	slices.Sort(out)
	return out, nil
}

// cpuTime is this thread's CPU time in ns: wall time on a shared machine would
// count the neighbours.
func cpuTime() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		return 0
	}
	return ts.Nano()
}
