// SPDX-License-Identifier: Apache-2.0

// Command bench measures what a packet costs in the loaded programs, by
// BPF_PROG_TEST_RUN, in a network namespace that it makes and removes. It pins
// itself to a CPU, counts the thread's CPU time, and prints minimum and median
// of several runs; docs/benchmarks.md explains the method and what it does not
// show.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"regexp"
	"runtime"
	"text/tabwriter"

	"golang.org/x/sys/unix"
)

// row is one line of the table. Times are ns a packet.
type row struct {
	Name   string  `json:"name"`
	Flows  int     `json:"flows"`
	Fill   int     `json:"fillPercent"` // of the flow table, by the entries of these flows
	Min    float64 `json:"minNs"`
	Median float64 `json:"medianNs"`
	Spread float64 `json:"spreadPercent"` // of the runs: (max-min)/min
	Net    float64 `json:"netNs"`         // median less the wrapper's median with a floor in place
}

// options are those of the command line.
type options struct {
	runs, packets int
	only          *regexp.Regexp
}

func main() {
	var o options
	flag.IntVar(&o.runs, "runs", 7, "measurements of each row; the table shows their minimum and median")
	flag.IntVar(&o.packets, "packets", 1<<18, "packets of each measurement; more where there are more flows")
	asJSON := flag.Bool("json", false, "print JSON instead of the tables")
	match := flag.String("match", "", "measure only scenes whose name matches this regular expression, as `tc established TCP v4`")
	flag.Parse()
	var err error
	if o.only, err = regexp.Compile(*match); err != nil {
		err = fmt.Errorf("-match: %w", err)
	} else {
		err = run(o, *asJSON)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(o options, asJSON bool) (err error) {
	w, err := newWorld()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	return w.router.Do(func() error { return measureAll(o, w, asJSON) })
}

// measureAll runs on a thread of its own, in the namespace.
func measureAll(o options, w *world, asJSON bool) error {
	var cpus unix.CPUSet // per-CPU maps and the clock are this thread's
	cpus.Set(runtime.NumCPU() - 1)
	if err := unix.SchedSetaffinity(0, &cpus); err != nil {
		return fmt.Errorf("pin to CPU %d: %w", runtime.NumCPU()-1, err)
	}
	t := &tables{options: o, world: w, open: make(map[size]*bench)}
	defer t.close()
	rows, err := t.all()
	if err != nil {
		return err
	}
	if asJSON {
		return json.NewEncoder(os.Stdout).Encode(rows)
	}
	if err := printRows(rows); err != nil {
		return err
	}
	b, err := t.of(small)
	if err != nil {
		return err
	}
	return b.printPrograms()
}

func printRows(rows []row) error {
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "PACKET\tFLOWS\tFILL\tMIN ns\tMEDIAN ns\tSPREAD\tNET ns\t")
	for _, r := range rows {
		fmt.Fprintf(w, "%s\t%d\t%d%%\t%.1f\t%.1f\t%.0f%%\t%.1f\t\n", r.Name, r.Flows, r.Fill, r.Min, r.Median, r.Spread, r.Net)
	}
	return w.Flush()
}
