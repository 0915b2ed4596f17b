// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"strings"
	"testing"
)

// What IPVS cannot pass is there: a case that has another name now would be asked
// of it unseen.
func TestNotOfIPVSNamesCases(t *testing.T) {
	for pattern := range notOfIPVS {
		own := strings.TrimPrefix(pattern, "UDP ")
		found := false
		for _, g := range groups() {
			found = found || g.name == own
			for _, c := range g.cases {
				found = found || covers(own, g.name+"/"+c.name)
			}
		}
		if !found {
			t.Errorf("there is no %q", pattern)
		}
	}
}
