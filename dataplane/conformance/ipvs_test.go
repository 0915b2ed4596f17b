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
		beginning, isBeginning := strings.CutSuffix(pattern, "*")
		found := false
		for _, g := range groups() {
			found = found || g.name == pattern
			for _, c := range g.cases {
				name := g.name + "/" + c.name
				found = found || name == pattern || isBeginning && strings.HasPrefix(name, beginning)
			}
		}
		if !found {
			t.Errorf("there is no %q", pattern)
		}
	}
}
