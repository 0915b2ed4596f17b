// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/waggle-lb/waggle/test/benchnet/result"
)

// printTable writes a line for each row, with the medians and what they lie between.
func printTable(w io.Writer, f *result.File) error {
	fmt.Fprintf(w, "Linux %s, %d CPUs, load %.1f, %s; %d times %d s each, ratios to the best of %s in the same repeat\n\n",
		f.Kernel, f.CPUs, f.Load, f.Version, f.Repeats, f.Seconds, strings.Join(f.Rivals, ", "))
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "SERVICES\tCLIENT\tMETRIC\tPATH\tMEDIAN\tMIN\tMAX\tRATIO\tMIN\tMAX\t")
	for _, r := range f.Rows() {
		fmt.Fprintf(t, "%d\t%s\t%s (%s)\t%s\t%s\t%s\t%s\t%s\t\n", r.Services, place(r.From), r.Metric.Name, r.Metric.Unit, r.Path,
			figure(r.Value.Median), figure(r.Value.Min), figure(r.Value.Max), ratios(r.Ratio))
	}
	return t.Flush()
}

func place(from string) string {
	if from == result.FromNode {
		return "on the node"
	}
	return "elsewhere"
}

func ratios(s result.Summary) string {
	if s == (result.Summary{}) {
		return "\t\t"
	}
	return fmt.Sprintf("%.2f\t%.2f\t%.2f", s.Median, s.Min, s.Max)
}

// figure is a number with three digits at least.
func figure(v float64) string {
	if v < 100 {
		return fmt.Sprintf("%.3g", v)
	}
	return fmt.Sprintf("%.0f", v)
}
