// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"
	"text/tabwriter"
)

// packetRow is a row of `make bench BENCH=-json` (test/bench). Times are ns a packet.
type packetRow struct {
	Name   string
	Flows  int
	Fill   float64 `json:"fillPercent"`
	Min    float64 `json:"minNs"`
	Median float64 `json:"medianNs"`
	Spread float64 `json:"spreadPercent"`
	Net    float64 `json:"netNs"`
}

// The kinds of rows.
const (
	ofPackets    = "packets"
	ofServices   = "services"
	ofSchedulers = "schedulers"
)

// kind is the table and the chart in which the row is.
func (r packetRow) kind() string {
	switch {
	case strings.HasSuffix(r.Name, " backends)"):
		return ofSchedulers
	case strings.HasSuffix(r.Name, " services") || strings.HasSuffix(r.Name, " another service"):
		return ofServices
	}
	return ofPackets
}

// packetTables are those of each kind that was measured, by what stands in their marks.
func packetTables(rows []packetRow) map[string]string {
	tables := make(map[string]string)
	for _, kind := range []string{ofPackets, ofServices, ofSchedulers} {
		var b strings.Builder
		w := tabwriter.NewWriter(&b, 0, 8, 2, ' ', tabwriter.AlignRight)
		fmt.Fprintln(w, "PACKET\tFLOWS\tFILL\tMIN ns\tMEDIAN ns\tSPREAD\tNET ns\t")
		n := 0
		for _, r := range rows {
			if r.kind() == kind {
				fmt.Fprintf(w, "%s\t%d\t%.0f%%\t%.1f\t%.1f\t%.0f%%\t%.1f\t\n", r.Name, r.Flows, r.Fill, r.Min, r.Median, r.Spread, r.Net)
				n++
			}
		}
		w.Flush() // to memory, which does not fail
		if n > 0 {
			tables["packets.json: "+kind] = "```\n" + b.String() + "```\n"
		}
	}
	return tables
}

// packetCharts are one of each kind that was measured.
func packetCharts(rows []packetRow) map[string]*chart {
	titles := map[string]string{
		ofPackets: "What a packet costs in the programs", ofServices: "What a packet costs, by the number of services",
		ofSchedulers: "What a new flow costs, by scheduler and backends",
	}
	charts := make(map[string]*chart)
	for _, r := range rows {
		if r.Flows == 0 { // a floor
			continue
		}
		c := charts[r.kind()]
		if c == nil {
			c = &chart{title: titles[r.kind()], unit: "ns, net of the empty program; less is better"}
			charts[r.kind()] = c
		}
		c.groups = append(c.groups, group{label(r), []bar{{value: r.Net}}})
	}
	return charts
}

func label(r packetRow) string {
	if r.Flows == 1 {
		return r.Name + ", 1 flow"
	}
	return fmt.Sprintf("%s, %s flows", r.Name, thousands(r.Flows))
}
