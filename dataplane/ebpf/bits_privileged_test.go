// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package ebpf

import (
	"slices"
	"testing"

	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/maps/bits"
)

// bitsOf says for which protocols a server's bits are set: as a backend's, and
// as one that is masqueraded to.
func (r *rig) bitsOf(server int) (backend, masquerade string) {
	r.t.Helper()
	for _, p := range []lb.Protocol{lb.TCP, lb.UDP, lb.SCTP} {
		t := r.d.state.t
		m := bits.Backend(serverAt(server), p)
		if t.backendBits.Has(m) {
			backend += p.String() + " "
		}
		if t.masqBits.Has(m) {
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

// enlarge has this process's configuration take the place of one with small bitmaps.
func (r *rig) enlarge(snap *lb.Snapshot) {
	r.t.Helper()
	sizes := needOf(snap).sizes(DefaultLimits)
	setSize(sizes, "backends", 1<<16)
	before := r.d.state.t.vipBits.Len()
	_, err := r.d.build(snap, sizes)
	r.do(err)
	if got := r.d.state.t.vipBits.Len(); got != 16<<16 || got <= before {
		r.t.Errorf("bitmaps of %d bits, before %d, want %d", got, before, 16<<16)
	}
}

// Larger bitmaps say what the small ones said and no more, and are cleared as these were.
func TestLargerBitmapsSayTheSame(t *testing.T) {
	r := growing(t, DefaultLimits)
	plain, masq, gone := serve("plain", from(1, 3), 1), serve("masq", []int{2}, 2), serve("gone", []int{2, 5}, 3)
	masq.SetMasquerade(lb.MasqueradeAlways)
	r.apply(plain, masq, gone)
	client, server := r.connect(3)
	snap := r.apply(plain, masq)
	set := func() (n []int) {
		for _, b := range r.d.state.bitRefs() {
			n = append(n, len(slices.Collect(b.Each)))
		}
		return n
	}
	before := set()
	r.enlarge(snap)
	if got := set(); !slices.Equal(got, before) {
		t.Errorf("%v bits are set, before %v", got, before)
	}
	r.wantStays(client, 3, server)
	r.wantBits(2, "TCP ", "TCP ")
	r.wantBits(5, "TCP ", "")
	r.apply(plain)
	r.Advance(2 * 900e9)
	r.age(grace)
	r.age(grace)
	r.wantBits(2, "TCP ", "") // plain's
	r.apply()
	r.age(grace)
	r.age(grace)
	peers := make(map[uint32]bool)
	for a := range r.d.state.peers {
		for _, bit := range r.d.state.peerBits.Bits(bits.Addr(a)) {
			peers[bit] = true
		}
	}
	if got, want := set(), []int{0, 0, len(peers), 0, 0}; !slices.Equal(got, want) {
		t.Errorf("%v bits are set when all is gone, want %v", got, want)
	}
}

// A frontend that is gone when a process starts is known by its flows and its bit
// alone: they outlive that process and larger bitmaps.
func TestBitsOfGoneFrontendsOutliveProcessesAndSizes(t *testing.T) {
	r := growing(t, DefaultLimits)
	web, other := serve("web", from(1, 3), 1), serve("other", []int{7}, 4)
	r.apply(web, other)
	client, server := r.connect(1)
	r.apply(other)
	r.do(r.Restart())
	snap := r.apply(other, serve("again", []int{8}, 1))
	r.wantStays(client, 1, server)
	r.enlarge(snap)
	r.wantStays(client, 1, server)
	r.apply(other) // the VIP goes once more
	r.age(grace)
	r.age(grace)
	r.wantStays(client, 1, server)
	r.do(r.Restart()) // and smaller ones
	r.apply(other)
	if got := r.d.state.t.vipBits.Len(); got == 16<<16 {
		t.Errorf("bitmaps of %d bits; the test shows nothing", got)
	}
	r.wantStays(client, 1, server)
}

// sharing returns two VIPs whose marks have one bit in common.
func (r *rig) sharing() (int, int) {
	r.t.Helper()
	by := make(map[uint32]int)
	for n := 10; n < 1<<16; n++ {
		m := r.d.state.t.vipBits.Bits(bits.Addr(vipAt(n).Addr()))
		one, other := by[m[0]], by[m[1]]
		if one != other && m[0] != m[1] {
			return max(one, other), n
		}
		by[m[0]], by[m[1]] = n, n
	}
	r.t.Fatal("no two VIPs share one bit")
	return 0, 0
}

// The other's end, in the next process, does not take the bit that both need.
func TestBitsOfGoneFrontendsOutliveThoseTheyAreSharedWith(t *testing.T) {
	r := growing(t, DefaultLimits)
	stays := serve("stays", []int{8}, 1)
	r.apply(stays)
	gone, goes := r.sharing()
	web, other := serve("web", from(1, 3), gone), serve("other", []int{7}, goes)
	r.apply(web, other, stays)
	client, server := r.connect(gone)
	r.apply(other, stays)
	r.do(r.Restart())
	r.apply(other, stays)
	r.wantStays(client, gone, server)
	r.apply(stays)
	r.age(grace)
	r.age(grace)
	r.wantStays(client, gone, server)
}

// While hooks get the next process's programs one by one, those of before meet replies of
// backends that are none in their configuration, whose flows the next ones made.
func TestProgramsOfBeforeKnowTheNextBackends(t *testing.T) {
	r := newRig(t, nil)
	r.apply(serve("web", []int{1}, 1))
	before, err := r.d.gen.BackendBits.Clone()
	r.do(err)
	defer before.Close()
	r.do(r.Restart())
	r.apply(serve("web", []int{1, 2}, 1))
	table, err := bits.Open(before)
	r.do(err)
	defer table.Close()
	if !table.Has(bits.Backend(serverAt(2), lb.TCP)) {
		t.Error("the bitmap of before does not have the backend's bit")
	}
}
