// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/lb"
)

// FlowList is the output of `waggle flows`.
type FlowList struct {
	header
	Items []Flow `json:"items"`
	// Truncated says that a limit cut the list: the items are some of the
	// flows, not the first of any order.
	Truncated bool `json:"truncated"`
}

// Flow is one translated flow.
type Flow struct {
	Protocol string `json:"protocol"`
	State    string `json:"state"`
	Client   string `json:"client"`
	VIP      string `json:"vip"`
	Backend  string `json:"backend"`
	// Source is what the backend sees as the client: the client, another port
	// of it, or an address of this machine.
	Source string `json:"source"`
	// Service and Family are "" if the kernel no longer knows the name.
	Service string `json:"service"`
	Family  string `json:"family"`
	// IdleSeconds and ExpiresSeconds have a resolution of a millisecond. What the
	// dataplane does not know, IPVS, is null.
	IdleSeconds    *float64 `json:"idleSeconds"`
	ExpiresSeconds float64  `json:"expiresSeconds"`
	InPackets      *uint64  `json:"inPackets"`
	InBytes        *uint64  `json:"inBytes"`
	OutPackets     *uint64  `json:"outPackets"`
	OutBytes       *uint64  `json:"outBytes"`
}

// NewFlowList makes the list of flows, by protocol, client and VIP. It sorts
// flows in place.
func NewFlowList(flows []dataplane.Flow, truncated bool) *FlowList {
	slices.SortFunc(flows, func(a, b dataplane.Flow) int {
		return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), a.Client.Compare(b.Client), a.VIP.Compare(b.VIP))
	})
	l := &FlowList{header: header{APIVersion, "FlowList"}, Items: make([]Flow, 0, len(flows)), Truncated: truncated}
	for _, f := range flows {
		item := Flow{
			Protocol: f.Protocol.String(), State: f.State,
			Client: address(f.Client), VIP: address(f.VIP), Backend: address(f.Backend),
			ExpiresSeconds: seconds(f.Expires),
		}
		if !f.Bare {
			idle := seconds(f.Idle)
			item.Source, item.IdleSeconds = address(f.Client), &idle
			item.InPackets, item.InBytes, item.OutPackets, item.OutBytes = &f.InPackets, &f.InBytes, &f.OutPackets, &f.OutBytes
		}
		if f.Source.IsValid() {
			item.Source = address(f.Source)
		}
		if f.Service != (lb.ServiceID{}) {
			item.Service, item.Family = f.Service.Name, f.Service.Family.String()
		}
		l.Items = append(l.Items, item)
	}
	return l
}

func seconds(d time.Duration) float64 { return float64(d.Milliseconds()) / 1000 }

// short prints seconds as people read them: whole ones, "14m57s".
func short(s float64) string {
	return time.Duration(s * float64(time.Second)).Round(time.Second).String()
}

func (l *FlowList) rows(w *rows, wide bool) {
	head := []any{"PROTO", "STATE", "CLIENT", "VIP", "BACKEND", "IDLE", "EXPIRES"}
	if wide {
		head = append(append(head, "SOURCE", "SERVICE"), trafficHead()[1:]...)
	}
	w.add(head...)
	for _, f := range l.Items {
		idle := "-"
		if f.IdleSeconds != nil {
			idle = short(*f.IdleSeconds)
		}
		row := []any{f.Protocol, f.State, f.Client, f.VIP, f.Backend, idle, short(f.ExpiresSeconds)}
		if wide {
			row = append(row, cmp.Or(f.Source, "-"), cmp.Or(f.Service, "-"))
			for _, n := range []*uint64{f.InPackets, f.InBytes, f.OutPackets, f.OutBytes} {
				row = append(row, known(n))
			}
		}
		w.add(row...)
	}
}

// known is what is not null.
func known(n *uint64) any {
	if n == nil {
		return "-"
	}
	return *n
}

// address is "" for the zero AddrPort, which would print as "invalid AddrPort".
func address(a netip.AddrPort) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}
