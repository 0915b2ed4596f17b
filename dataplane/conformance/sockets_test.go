// SPDX-License-Identifier: Apache-2.0

package conformance

import "testing"

// What does not hold for sockets is there: a case that has another name now would
// hold unseen.
func TestNotOfSocketsNamesCases(t *testing.T) {
	there := make(map[string]bool)
	for _, g := range groups() {
		there[g.name] = true
		for _, c := range g.cases {
			there[g.name+"/"+c.name] = true
		}
	}
	for name := range notOfSockets {
		if !there[name] {
			t.Errorf("there is no %q", name)
		}
	}
}
