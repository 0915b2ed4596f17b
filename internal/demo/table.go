// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
)

// WriteTable writes the result for people: a table for each scheduler, one of
// the rates, and the verdict.
func (r *Result) WriteTable(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	for i := 0; i < len(r.Distributions); {
		n := i
		for n < len(r.Distributions) && r.Distributions[n].Scheduler == r.Distributions[i].Scheduler {
			n++
		}
		r.writeScheduler(tw, r.Distributions[i:n])
		i = n
	}
	r.writeRates(tw)
	if err := tw.Flush(); err != nil {
		return err
	}
	if r.OK {
		_, err := fmt.Fprintln(w, "Everything is as the rules promise.")
		return err
	}
	_, err := fmt.Fprintf(w, "Not as promised:\n  %s\n", strings.Join(r.Problems, "\n  "))
	return err
}

// writeScheduler writes the services of one scheduler side by side.
func (r *Result) writeScheduler(tw *tabwriter.Writer, dists []Distribution) {
	promised := "PROMISED"
	if !dists[0].Exact {
		promised = "BY WEIGHT"
	}
	fmt.Fprintf(tw, "Scheduler %s, %d flows to each service:\n", dists[0].Scheduler, dists[0].Flows)
	fmt.Fprintf(tw, "SERVER\tWEIGHT\t%s", promised)
	for _, d := range dists {
		fmt.Fprintf(tw, "\t%s/%s", d.Protocol, d.Family)
	}
	fmt.Fprintln(tw)
	for i, s := range r.Servers {
		share := dists[0].Servers[i]
		fmt.Fprintf(tw, "%s\t%d\t%s", s.Name, s.Weight, span{share.Min, share.Max})
		for _, d := range dists {
			fmt.Fprintf(tw, "\t%d", d.Servers[i].Got)
		}
		fmt.Fprintln(tw)
	}
	fmt.Fprint(tw, "failed\t\t0")
	for _, d := range dists {
		fmt.Fprintf(tw, "\t%d", d.Failed)
	}
	fmt.Fprint(tw, "\nverdict\t\t")
	for _, d := range dists {
		fmt.Fprintf(tw, "\t%s", verdict(d.OK))
	}
	fmt.Fprint(tw, "\n\n")
}

func verdict(ok bool) string {
	if ok {
		return "ok"
	}
	return "WRONG"
}

// writeRates writes a row for each thing that was measured, with a column for
// each family.
func (r *Result) writeRates(tw *tabwriter.Writer) {
	fmt.Fprint(tw, "RATE")
	for _, f := range families {
		fmt.Fprintf(tw, "\t%s", f)
	}
	fmt.Fprintln(tw)
	for _, row := range []struct {
		what, title string
		unit        float64
	}{
		{TCPConnections, "new TCP connections/s", 1},
		{UDPRoundTrips, "UDP round trips/s", 1},
		{TCPBulk, "TCP MiB/s, each way", 1 << 20},
	} {
		fmt.Fprint(tw, row.title)
		for _, f := range families {
			fmt.Fprintf(tw, "\t%s", r.rateCell(row.what, f.String(), row.unit))
		}
		fmt.Fprintln(tw)
	}
	if n := r.bulkBytes(); n > 0 {
		fmt.Fprintf(tw, "(%d MiB each way through a VIP, every byte compared)\n", n>>20)
	}
	fmt.Fprintln(tw)
}

func (r *Result) rateCell(what, family string, unit float64) string {
	for _, x := range r.Rates {
		switch {
		case x.What != what || x.Family != family:
		case !x.OK:
			return "WRONG"
		default:
			return strconv.FormatFloat(x.PerSecond/unit, 'f', 0, 64)
		}
	}
	return "-"
}

// bulkBytes is the length of the streams, 0 unless all of them were right.
func (r *Result) bulkBytes() int64 {
	var n int64
	for _, x := range r.Rates {
		if x.What != TCPBulk {
			continue
		}
		if !x.OK {
			return 0
		}
		n = x.Count
	}
	return n
}
