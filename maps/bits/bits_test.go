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
	const shift, n = bits.Shift(14), 1 << 12
	random := rand.New(rand.NewPCG(7, 8))
	network := func() (out [n]uint32) {
		a := [4]byte{byte(random.Uint32()), byte(random.Uint32())}
		for i := range out {
			a[2], a[3] = byte(i>>8), byte(i)
			out[i] = shift.Addr(netip.AddrFrom4(a))
		}
		return out
	}
	for range 100 {
		ours, set := make(map[uint32]bool), 0
		for range 4 {
			for _, bit := range network() {
				ours[bit] = true
			}
		}
		for _, bit := range network() {
			if ours[bit] {
				set++
			}
		}
		if share := float64(len(ours)) / (1 << 18); float64(set)/n > 3*share {
			t.Errorf("%.3f of the bits are set, and %.3f of those of another network", share, float64(set)/n)
		}
	}
}
