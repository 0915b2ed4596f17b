// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"slices"
	"testing"
)

// An exception names what is there: a case that has another name now would be asked
// of what cannot pass it, or not be asked of what can.
func TestExceptionsNameCases(t *testing.T) {
	for _, e := range []exceptions{notOfSockets, notOfIPVS} {
		for pattern, why := range e {
			_, own := split(pattern)
			named := func(g group) bool {
				return slices.ContainsFunc(g.cases, func(c testCase) bool { return covers(own, g.name, c.name) })
			}
			if !slices.ContainsFunc(groups(), named) || why == "" {
				t.Errorf("there is no %q, or no reason: %q", pattern, why)
			}
		}
	}
}
