// SPDX-License-Identifier: Apache-2.0

package bits_test

import (
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/waggle-lb/waggle/maps/bits"
)

// Others' addresses have "perhaps" by chance, never a whole network of them because
// some network of backends has just its bits.
func TestNetworksHaveFewBitsInCommon(t *testing.T) {
	const shift, words, n = bits.Shift(20), 1 << 12, 1 << 12
	random := rand.New(rand.NewPCG(7, 8))
	network := func() (out [n]bits.Mark) {
		a := [4]byte{byte(random.Uint32()), byte(random.Uint32())}
		for i := range out {
			a[2], a[3] = byte(i>>8), byte(i)
			out[i] = bits.Addr(netip.AddrFrom4(a))
		}
		return out
	}
	for range 100 {
		ours, perhaps := make(map[uint32]bool), 0
		for range 4 {
			for _, m := range network() {
				for _, bit := range shift.Bits(m) {
					ours[bit] = true
				}
			}
		}
		for _, m := range network() {
			if b := shift.Bits(m); ours[b[0]] && ours[b[1]] {
				perhaps++
			}
		}
		// four addresses a word: 2 %, were they drawn at random
		if share := float64(perhaps) / n; share > 0.04 {
			t.Errorf("%.3f of another network are taken for ours, with %.3f of the bits set", share, float64(len(ours))/(words*64))
		}
	}
}
