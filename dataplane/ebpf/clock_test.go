// SPDX-License-Identifier: Apache-2.0

package ebpf

import "testing"

// In a pause of 100 ms there may be a jiffy more or less: 10 a second.
func TestTheNearestRateIsTaken(t *testing.T) {
	for measured, want := range map[float64]uint32{
		0: 100, 90: 100, 100: 100, 110: 100, 240: 250, 249.7: 250, 250: 250, 260: 250, 290: 300, 310: 300, 990: 1000, 1000: 1000, 1010: 1000,
	} {
		if got := nearestRate(measured); got != want {
			t.Errorf("%v jiffies a second: %d, want %d", measured, got, want)
		}
	}
}
