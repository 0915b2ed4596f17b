// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package ebpf

import (
	"testing"

	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/maps/bits"
)

// bitsOf says for which protocols a server's bits are set: as a backend's, and
// as one that is masqueraded to.
func (r *rig) bitsOf(server int) (backend, masquerade string) {
	r.t.Helper()
	for _, p := range []lb.Protocol{lb.TCP, lb.UDP, lb.SCTP} {
		bit := bits.Backend(serverAt(server), p)
		if r.d.state.t.backendBits.IsSet(bit) {
			backend += p.String() + " "
		}
		if r.d.state.t.masqBits.IsSet(bit) {
			masquerade += p.String() + " "
		}
	}
	return backend, masquerade
}

func (r *rig) wantBits(server int, backend, masquerade string) {
	r.t.Helper()
	if b, m := r.bitsOf(server); b != backend || m != masquerade {
		r.t.Errorf("server %d: bits of a backend %q, masqueraded %q, want %q and %q", server, b, m, backend, masquerade)
	}
}

// A bit too many costs every packet to that backend its lookups.
func TestARestartSetsNoBitsThatWereNotSet(t *testing.T) {
	r := newRig(t, nil)
	plain, masq := serve("plain", []int{1}, 1), serve("masq", []int{2}, 2)
	masq.SetMasquerade(lb.MasqueradeAlways)
	for range 3 {
		r.apply(plain, masq)
		r.wantBits(1, "TCP ", "")
		r.wantBits(2, "TCP ", "TCP ")
		r.do(r.Restart())
	}
}

// A masqueraded flow goes on in a next process whose service no longer
// masquerades, or is gone, and its bits with it, until its backend is freed.
func TestARestartKeepsTheBitsOfAGoneService(t *testing.T) {
	r := newRig(t, nil)
	masq := serve("masq", []int{2}, 2)
	masq.SetMasquerade(lb.MasqueradeAlways)
	r.apply(masq)
	r.connect(2)
	r.do(r.Restart())
	r.apply(serve("plain", []int{1}, 1))
	r.wantBits(2, "TCP ", "TCP ")
	r.age(grace)
	r.wantBits(2, "TCP ", "TCP ")
	r.Advance(2 * 900e9)
	r.age(grace)
	r.wantBits(2, "", "")
}
