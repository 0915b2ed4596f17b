// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"slices"
	"strings"

	"github.com/waggle-lb/waggle/lb"
)

// exceptions are groups, and cases of others by group and name, that say nothing of
// what is tested, or that it cannot pass, and why. A name that ends in * stands for
// all that begin so; one that begins with "TCP ", "UDP " or "ipv6 " holds there only.
type exceptions map[string]string

// without returns the groups with the cases that are left, and those groups only that
// have any.
func (e exceptions) without(family lb.Family, proto lb.Protocol) (out []group) {
	for _, g := range groups() {
		g.cases = slices.DeleteFunc(slices.Clone(g.cases), func(c testCase) bool { return e.has(family, proto, g.name, c.name) })
		if len(g.cases) > 0 {
			out = append(out, g)
		}
	}
	return out
}

func (e exceptions) has(family lb.Family, proto lb.Protocol, group, name string) bool {
	for pattern := range e {
		where, own := split(pattern)
		if (where == "" || where == proto.String() || where == family.String()) && covers(own, group, name) {
			return true
		}
	}
	return false
}

// split returns where a pattern holds, "" for everywhere, and the rest of it.
func split(pattern string) (where, own string) {
	word, rest, _ := strings.Cut(pattern, " ")
	if slices.Contains([]string{lb.TCP.String(), lb.UDP.String(), lb.IPv6.String()}, word) {
		return word, rest
	}
	return "", pattern
}

// covers says whether a pattern, but for where it holds, stands for a case.
func covers(pattern, group, name string) bool {
	beginning, isBeginning := strings.CutSuffix(pattern, "*")
	whole := group + "/" + name
	return pattern == group || pattern == whole || isBeginning && strings.HasPrefix(whole, beginning)
}
