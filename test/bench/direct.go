// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/waggle-lb/waggle/internal/packet"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/maps/bits"
)

// direct measures what clients pay who talk to a backend without a VIP: data
// of a TCP connection, and datagrams, which are looked for among the flows.
func (b *bench) direct() ([]row, error) {
	f := families[0]
	backend := f.backends[0]
	if err := setBit(b.lb.PeerBits, bits.Addr(backend)); err != nil {
		return nil, err
	}
	var rows []row
	for _, proto := range []lb.Protocol{lb.TCP, lb.UDP} {
		data, err := frame(f, proto, backend)
		if err != nil {
			return nil, err
		}
		r, err := b.against(fmt.Sprintf("direct %s v4, to a backend", proto), 1, b.wrap.WrapIngress, b.lb.TcIngress, b.wrap.FloorIngress, b.wrap.Ingress, data, func() error {
			return b.scene(f, backend, 8080, 1, packet.ACK)
		})
		if err != nil {
			return nil, err
		}
		rows = append(rows, r)
	}
	return rows, nil
}
