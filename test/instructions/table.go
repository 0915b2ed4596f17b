// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
)

// figure is the median of repeats, and the width of their middle half.
type figure struct{ median, spread float64 }

func (f figure) String() string { return fmt.Sprintf("%.0f\t%.0f", f.median, f.spread) }

// summarize wants at least one sample.
func summarize(samples []float64) figure {
	s := slices.Sorted(slices.Values(samples))
	n := len(s)
	return figure{(s[(n-1)/2] + s[n/2]) / 2, s[n-1-n/4] - s[n/4]}
}

// what is measured of a number of services.
type what struct {
	services int
	kind     string
}

// results are instructions by what is measured and by the way that packets take. The
// n-th samples of all ways were taken one after the other.
type results map[what]map[string][]float64

func (r results) add(w what, way string, sample float64) {
	if r[w] == nil {
		r[w] = make(map[string][]float64)
	}
	r[w][way] = append(r[w][way], sample)
}

func (r results) merge(other results) {
	for w, byWay := range other {
		for way, samples := range byWay {
			for _, s := range samples {
				r.add(w, way, s)
			}
		}
	}
}

// row is a line of the table: what a way takes, what that is more than plain routing,
// and the part of it that IPVS adds.
type row struct {
	way          string
	takes, added figure
	ratio        float64
}

// rows compares ways with plain routing, repeat by repeat, and what they add with
// what IPVS adds.
func (r results) rows(w what, ways []string, plain, ipvs string) (out []row) {
	for _, way := range ways {
		var more []float64
		for i, s := range r[w][way] {
			more = append(more, s-r[w][plain][i])
		}
		out = append(out, row{way: way, takes: summarize(r[w][way]), added: summarize(more)})
	}
	i := slices.IndexFunc(out, func(r row) bool { return r.way == ipvs })
	for n := range out {
		out[n].ratio = out[n].added.median / out[i].added.median
	}
	return out
}

// print prints all of it as one table, in the order of services and kinds.
func (r results) print(to io.Writer, services []int, kinds, ways []string, plain, ipvs string) error {
	w := tabwriter.NewWriter(to, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "SERVICES\tWHAT\tBY\tINSTRUCTIONS\tSPREAD\tADDS\tSPREAD\tOF IPVS'S\t")
	for _, n := range services {
		for _, kind := range kinds {
			for _, row := range r.rows(what{n, kind}, ways, plain, ipvs) {
				if row.way == plain {
					fmt.Fprintf(w, "%d\t%s\t%s\t%v\t\t\t\t\n", n, kind, row.way, row.takes)
					continue
				}
				fmt.Fprintf(w, "%d\t%s\t%s\t%v\t%v\t%.2f\t\n", n, kind, row.way, row.takes, row.added, row.ratio)
			}
		}
	}
	return w.Flush()
}
