// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/lb"
)

// ClientList is the output of `waggle clients`.
type ClientList struct {
	header
	Items []Client `json:"items"`
	// Truncated says that a limit cut the list: the items are some of the
	// clients, not the first of any order.
	Truncated bool `json:"truncated"`
}

// Client is a client, or a network of them, that affinity keeps at a backend.
type Client struct {
	Service string `json:"service"`
	Family  string `json:"family"`
	Client  string `json:"client"`
	// Mask is how many bits of the address count.
	Mask    uint8  `json:"mask"`
	Backend string `json:"backend"`
	// Assured says that the backend answered.
	Assured bool `json:"assured"`
	// ExpiresSeconds has a resolution of a millisecond.
	ExpiresSeconds float64 `json:"expiresSeconds"`
}

// NewClientList makes the list of clients, by service and address, of services
// that the snapshot has. It sorts clients in place.
func NewClientList(snap *lb.Snapshot, clients []dataplane.Client, truncated bool) *ClientList {
	slices.SortFunc(clients, func(a, b dataplane.Client) int {
		return cmp.Or(a.Service.Compare(b.Service), a.Client.Compare(b.Client))
	})
	l := &ClientList{header: header{APIVersion, "ClientList"}, Items: make([]Client, 0, len(clients)), Truncated: truncated}
	for _, c := range clients {
		l.Items = append(l.Items, Client{
			Service: c.Service.Name, Family: c.Service.Family.String(),
			Client: c.Client.String(), Mask: snap.Service(c.Service).Affinity.Prefix,
			Backend: address(c.Backend), Assured: c.Assured, ExpiresSeconds: seconds(c.Expires),
		})
	}
	return l
}

func (l *ClientList) rows(w *rows, wide bool) {
	head := []any{"SERVICE", "CLIENT", "BACKEND", "EXPIRES"}
	if wide {
		head = append(head, "ASSURED")
	}
	w.add(head...)
	for _, c := range l.Items {
		row := []any{c.Service, fmt.Sprintf("%s/%d", c.Client, c.Mask), c.Backend, short(c.ExpiresSeconds)}
		if wide {
			row = append(row, c.Assured)
		}
		w.add(row...)
	}
}
