// SPDX-License-Identifier: Apache-2.0

package fake_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/dataplane/conformance"
	"github.com/waggle-lb/waggle/dataplane/fake"
	"github.com/waggle-lb/waggle/lb"
)

type rig struct{ d *fake.Dataplane }

func (r *rig) Dataplane() dataplane.Dataplane { return r.d }

func (r *rig) Send(p conformance.Packet) conformance.Outcome {
	q := fake.Packet{Src: p.Src, Dst: p.Dst, Protocol: p.Protocol, Flags: fake.Flag(p.Flags), Payload: p.Payload}
	if p.From == conformance.Backend {
		return conformance.Outcome(r.d.Kernel().Egress(q))
	}
	return conformance.Outcome(r.d.Kernel().Ingress(q))
}

func (r *rig) Advance(d time.Duration) { r.d.Kernel().Advance(d) }

func (r *rig) Restart() error {
	r.d = fake.New(fake.Options{Kernel: r.d.Kernel()})
	return nil
}

func (r *rig) AssignLocal(addr netip.Addr, assigned bool) {
	r.d.Kernel().AssignLocal(addr, assigned)
}

func (r *rig) MasqueradeWith(family lb.Family, addr netip.Addr) {
	r.d.Kernel().MasqueradeWith(family, addr)
}

func TestConformance(t *testing.T) {
	conformance.Run(t, func(*testing.T) conformance.Rig { return &rig{fake.New(fake.Options{})} })
}
