// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"slices"
	"strings"

	"github.com/waggle-lb/waggle/lb"
)

// exceptions are groups, and cases of others by group and name, that say nothing of
// what is tested, or that it cannot pass, and why. A name that ends in * stands for
// all that begin so; one that begins with "UDP " holds for UDP only.
type exceptions map[string]string

// without returns the groups with the cases that are left, and those groups only that
// have any.
func (e exceptions) without(proto lb.Protocol) (out []group) {
	for _, g := range groups() {
		g.cases = slices.DeleteFunc(slices.Clone(g.cases), func(c testCase) bool { return e.has(proto, g.name, c.name) })
		if len(g.cases) > 0 {
			out = append(out, g)
		}
	}
	return out
}

func (e exceptions) has(proto lb.Protocol, group, name string) bool {
	for pattern := range e {
		own, udp := strings.CutPrefix(pattern, udpAlone)
		if (!udp || proto == lb.UDP) && covers(own, group, name) {
			return true
		}
	}
	return false
}

const udpAlone = "UDP "

// covers says whether a pattern, but for its protocol, stands for a case.
func covers(pattern, group, name string) bool {
	beginning, isBeginning := strings.CutSuffix(pattern, "*")
	whole := group + "/" + name
	return pattern == group || pattern == whole || isBeginning && strings.HasPrefix(whole, beginning)
}
