// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// runs are how often a program ran and what that took. The kernel's reading of the
// clock is in it: an empty program shows how much that is.
type runs struct {
	name  string
	count uint64
	took  uint64 // instructions
}

// average is of a program's runs: how many there were for each of n round trips, and
// the instructions of one.
type average struct {
	name         string
	often, takes float64
}

// averages are of the programs that ran between two looks, by name.
func averages(before, after map[ebpf.ProgramID]runs, n int) (out []average) {
	for id, r := range after {
		if count := float64(r.count - before[id].count); count > 0 {
			out = append(out, average{r.name, count / float64(n), float64(r.took-before[id].took) / count})
		}
	}
	slices.SortFunc(out, func(a, b average) int { return strings.Compare(a.name, b.name) })
	return out
}

// look reads what the kernel counted of programs on devices.
func look() (map[ebpf.ProgramID]runs, error) {
	out := make(map[ebpf.ProgramID]runs)
	id, err := ebpf.ProgramGetNextID(0)
	for ; err == nil; id, err = ebpf.ProgramGetNextID(id) {
		p, err := ebpf.NewProgramFromID(id)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		info, ierr := p.Info()
		stats, serr := p.Stats()
		if err := errors.Join(ierr, serr, p.Close()); err != nil {
			return nil, err
		}
		if info.Type == ebpf.SchedCLS || info.Type == ebpf.XDP {
			out[id] = runs{info.Name, stats.RunCount, uint64(stats.Runtime)}
		}
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return out, nil
}

// printPrograms prints what the programs of each way that has some take by
// themselves, of round trips by UDP.
func printPrograms(to io.Writer, all []*way, vips []netip.AddrPort) error {
	stats, err := ebpf.EnableStats(uint32(unix.BPF_STATS_RUN_TIME))
	if err != nil {
		return fmt.Errorf("have the kernel count runs of programs: %w", err)
	}
	defer stats.Close()
	t := tabwriter.NewWriter(to, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "UDP THERE AND BACK BY\tPROGRAM\tRUNS\tINSTRUCTIONS A RUN\t")
	for _, w := range all {
		if !w.programs {
			continue
		}
		to := vips
		if w.serve == nil {
			to = []netip.AddrPort{w.backend}
		}
		before, err := look()
		if err != nil {
			return err
		}
		const n = 5000 // what begins the flow hardly counts
		if _, err := timeDatagrams(w, to, n-warm); err != nil {
			return err
		}
		after, err := look()
		if err != nil {
			return err
		}
		for _, a := range averages(before, after, n) {
			fmt.Fprintf(t, "%s\t%s\t%.1f\t%.0f\t\n", w.name, a.name, a.often, a.takes)
		}
	}
	return t.Flush()
}
