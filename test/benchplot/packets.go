// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"
)

// packetRow is a row of `make bench BENCH=-json` (test/bench). Times are ns a packet.
type packetRow struct {
	Name   string
	Flows  int
	Median float64 `json:"medianNs"`
	Net    float64 `json:"netNs"`
}

// packetCharts are one of what packets cost, and one of new flows by scheduler.
func packetCharts(rows []packetRow) map[string]*chart {
	packets := &chart{title: "What a packet costs in the programs", unit: "ns, net of the empty program; less is better"}
	schedulers := &chart{title: "What a new flow costs, by scheduler and backends", unit: packets.unit}
	for _, r := range rows {
		c := packets
		if strings.HasSuffix(r.Name, " backends)") {
			c = schedulers
		}
		if r.Flows == 0 { // a floor
			continue
		}
		c.groups = append(c.groups, group{label(r), []bar{{value: r.Net}}})
	}
	charts := make(map[string]*chart)
	for name, c := range map[string]*chart{"packets": packets, "schedulers": schedulers} {
		if len(c.groups) > 0 {
			charts[name] = c
		}
	}
	return charts
}

func label(r packetRow) string {
	if r.Flows == 1 {
		return r.Name + ", 1 flow"
	}
	return fmt.Sprintf("%s, %s flows", r.Name, thousands(r.Flows))
}
