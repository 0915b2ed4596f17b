// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/waggle-lb/waggle/internal/packet"
	"github.com/waggle-lb/waggle/lb"
)

// direct measures what clients pay who talk to a backend without a VIP: data
// of a TCP connection, and datagrams, which are looked for among the flows.
func (b *bench) direct() ([]row, error) {
	f := families[0]
	backend := f.backends[0]
	if err := b.clear(); err != nil {
		return nil, err
	}
	var trials []trial
	for _, proto := range []lb.Protocol{lb.TCP, lb.UDP} {
		data, err := frame(f, proto, backend)
		if err != nil {
			return nil, err
		}
		trials = append(trials, trial{name: fmt.Sprintf("direct %s v4, to a backend", proto), hook: b.ingress(), prog: b.lb.TcIngress, frame: data, want: next,
			scene: scene{f: f, other: backend, port: 8080, flows: 1, flags: packet.ACK}})
	}
	return b.tryAll(trials...)
}
