// SPDX-License-Identifier: Apache-2.0

//go:build privileged && ipvs

package ipvs

import (
	"testing"

	"github.com/waggle-lb/waggle/dataplane/conformance"
	"github.com/waggle-lb/waggle/lb"
)

// TestConformance needs a kernel with IPVS: test/vm compiles it for its guests.
func TestConformance(t *testing.T) {
	for _, family := range []lb.Family{lb.IPv4, lb.IPv6} {
		for _, proto := range []lb.Protocol{lb.TCP, lb.UDP} {
			conformance.RunIPVS(t, family, proto, func(t *testing.T) conformance.Rig { return newRig(t) })
		}
	}
}
