// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/waggle-lb/waggle/test/benchnet/result"
)

// paths are all of a run, in the order of the table, so that each has one colour in all
// charts.
func paths(rows []result.Row) (all []string) {
	for _, r := range rows {
		if !slices.Contains(all, r.Path) {
			all = append(all, r.Path)
		}
	}
	return all
}

func where(r result.Row) string {
	from := "client elsewhere"
	if r.From == result.FromNode {
		from = "client on the node"
	}
	if r.Services == 1 {
		return from + ", 1 service"
	}
	return fmt.Sprintf("%s, %s services", from, thousands(r.Services))
}

func thousands(n int) string {
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%s,%03d", thousands(n/1000), n%1000)
}

// compared are the metrics whose ratios have a chart: those of the aim.
var compared = []string{"short connections", "CPU a short connection"}

// networkCharts are one for each metric, of what was measured, and those of ratios.
func networkCharts(f *result.File) map[string]*chart {
	rows := f.Rows()
	charts := make(map[string]*chart)
	for _, m := range f.Metrics {
		values := &chart{title: m.Name, unit: m.Unit + ", " + better(m) + "; bars are medians, lines minimum to maximum", series: paths(rows)}
		ratio := &chart{title: m.Name + ": how many times better than the best of " + list(f.Rivals), series: paths(rows), mark: 1,
			unit: "ratio in the same repeat, more is better; bars are medians, lines minimum to maximum"}
		for _, r := range rows {
			if r.Metric.Name != m.Name {
				continue
			}
			values.add(where(r), r.Path, r.Value)
			if !slices.Contains(f.Rivals, r.Path) && r.Ratio != (result.Summary{}) {
				ratio.add(where(r), r.Path, r.Ratio)
			}
		}
		name := strings.ToLower(strings.ReplaceAll(m.Name, " ", "-"))
		if len(values.groups) > 0 {
			charts["network-"+name] = values
		}
		if len(ratio.groups) > 0 && slices.Contains(compared, m.Name) {
			charts["network-"+name+"-ratio"] = ratio
		}
	}
	return charts
}

func better(m result.Metric) string {
	if m.LessIsBetter {
		return "less is better"
	}
	return "more is better"
}

// list is "a, b and c".
func list(names []string) string {
	if len(names) < 2 {
		return strings.Join(names, "")
	}
	return strings.Join(names[:len(names)-1], ", ") + " and " + names[len(names)-1]
}

// add adds a bar to the last group, if that is its, or to a new one.
func (c *chart) add(label, series string, s result.Summary) {
	if n := len(c.groups); n == 0 || c.groups[n-1].label != label {
		c.groups = append(c.groups, group{label: label})
	}
	g := &c.groups[len(c.groups)-1]
	g.bars = append(g.bars, bar{series, s.Median, s.Min, s.Max})
}

// networkTable is Markdown: what was measured where, and for each place, number of
// services and metric a row with a column for each path.
func networkTable(f *result.File) string {
	rows := f.Rows()
	names := paths(rows)
	var b strings.Builder
	fmt.Fprintf(&b, "Linux %s, %d CPUs, %s, waggle %s; %d measurements of %d s of each, load %.1f when they began. Medians;\n"+
		"in brackets how many times better than the best of %s in the same repeat, median and from minimum to maximum.\n\n",
		f.Kernel, f.CPUs, f.Date[:len("2006-01-02")], f.Version, f.Repeats, f.Seconds, f.Load, list(f.Rivals))
	fmt.Fprintf(&b, "| | | %s |\n|%s\n", strings.Join(names, " | "), strings.Repeat("---|", len(names)+2))
	cells := make(map[string]map[string]string) // by row and path
	var order []string
	for _, r := range rows {
		k := fmt.Sprintf("| %s | %s, %s ", where(r), r.Metric.Name, r.Metric.Unit)
		if cells[k] == nil {
			cells[k] = make(map[string]string)
			order = append(order, k)
		}
		cells[k][r.Path] = number(r.Value.Median)
		if r.Ratio != (result.Summary{}) {
			cells[k][r.Path] += fmt.Sprintf(" (%.2f, %.2f-%.2f)", r.Ratio.Median, r.Ratio.Min, r.Ratio.Max)
		}
	}
	for _, k := range order {
		b.WriteString(k)
		for _, name := range names {
			fmt.Fprintf(&b, "| %s ", cells[k][name])
		}
		b.WriteString("|\n")
	}
	return b.String()
}
