// SPDX-License-Identifier: Apache-2.0

package file

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/waggle-lb/waggle/lb"
)

// word returns which of words a field has; 0, the first, if there is none.
func (y *yamlReader) word(n *yaml.Node, path string, words ...string) int {
	if n == nil || !y.plain(n, path) {
		return 0
	}
	if i := slices.Index(words, n.Value); i >= 0 && n.Kind == yaml.ScalarNode {
		return i
	}
	last := len(words) - 1
	y.add(n.Line, path, fmt.Sprintf("unknown word %q", n.Value),
		fmt.Sprintf("write %s or %s", strings.Join(words[:last], ", "), words[last]))
	return 0
}

// boolean returns true or false; false if the field is left out.
func (y *yamlReader) boolean(n *yaml.Node, path string) bool {
	if n == nil || !y.plain(n, path) {
		return false
	}
	word := n.Kind == yaml.ScalarNode && (n.Value == "true" || n.Value == "false")
	switch {
	case !word:
		y.add(n.Line, path, fmt.Sprintf("unknown word %q", n.Value), "write true or false")
	case n.Style != 0:
		y.add(n.Line, path, "text where true or false is needed", "write "+n.Value+" without quotes")
	default:
		return n.Value == "true"
	}
	return false
}

// number returns a number in decimal, or otherwise if the field is left out.
func (y *yamlReader) number(n *yaml.Node, path string, least, most, otherwise int64) int64 {
	if n == nil {
		return otherwise
	}
	if !y.plain(n, path) {
		return 0
	}
	if n.Kind != yaml.ScalarNode || n.ShortTag() == "!!str" && n.Style != 0 {
		y.add(n.Line, path, "not a number", fmt.Sprintf("write %d to %d without quotes", least, most))
		return 0
	}
	v, p := parseNumber(lastOf(path), n.Value, least, most)
	if p != nil {
		y.addProblem(n.Line, path, p)
	}
	return v
}

// lastOf returns the name of a field: "weight" of "services[0].backends[0].weight".
func lastOf(path string) string { return path[strings.LastIndexByte(path, '.')+1:] }

// duration returns a Go duration of whole seconds.
func (y *yamlReader) duration(n *yaml.Node, path string, least, most time.Duration) time.Duration {
	if !y.plain(n, path) {
		return 0
	}
	bounds := fmt.Sprintf("write %s to %s, such as 300s or 5m", short(least), short(most))
	if n.Kind != yaml.ScalarNode || isEmpty(n) {
		y.add(n.Line, path, "no duration", bounds)
		return 0
	}
	d, err := time.ParseDuration(n.Value)
	switch bare, _ := strconv.ParseUint(n.Value, 10, 64); {
	case bare > 0:
		y.add(n.Line, path, fmt.Sprintf("duration %s has no unit", n.Value), "write "+n.Value+"s if it is seconds")
	case err != nil:
		y.add(n.Line, path, fmt.Sprintf("bad duration %q", n.Value), bounds)
	case d < least || d > most:
		y.add(n.Line, path, fmt.Sprintf("duration %s is out of range", n.Value), bounds)
	case d%time.Second != 0:
		y.add(n.Line, path, fmt.Sprintf("duration %s is not of whole seconds", n.Value), "write "+d.Round(time.Second).String())
	default:
		return d
	}
	return 0
}

// short is d without units that are zero: "744h", not "744h0m0s".
func short(d time.Duration) string {
	s := d.String()
	for _, zero := range []string{"0s", "0m"} {
		if cut, ok := strings.CutSuffix(s, zero); ok && cut != "" && (cut[len(cut)-1] == 'm' || cut[len(cut)-1] == 'h') {
			s = cut
		}
	}
	return s
}

// affinity is what the field of that name says: of each family, zero if it
// says nothing. given is also true if it says something wrong.
type affinity struct {
	given  bool
	family map[lb.Family]lb.Affinity
}

// masks are the fields of affinity that say how much of an address counts.
var masks = map[lb.Family]string{lb.IPv4: "mask", lb.IPv6: "mask6"}

func (y *yamlReader) affinity(n *yaml.Node, path string, frontends []lb.Frontend, mended bool) affinity {
	a := affinity{given: n != nil}
	if n == nil {
		return a
	}
	f := y.fields(n, path, &problem{"not an affinity", "write {timeout: 300s}"}, "timeout", masks[lb.IPv4], masks[lb.IPv6], "quiesced")
	if f == nil {
		return a
	}
	if f["timeout"] == nil {
		y.add(n.Line, path+".timeout", "missing", "write timeout: and how long a client keeps its backend, such as 300s")
		return a
	}
	common := lb.Affinity{
		Timeout:  y.duration(f["timeout"], path+".timeout", minAffinity, maxAffinity),
		Quiesced: y.word(f["quiesced"], path+".quiesced", "pick", "keep") == 1,
	}
	a.family = make(map[lb.Family]lb.Affinity)
	for _, family := range []lb.Family{lb.IPv4, lb.IPv6} {
		mask, at := f[masks[family]], path+"."+masks[family]
		ours := common
		ours.Prefix = uint8(y.number(mask, at, 1, int64(family.Bits()), int64(family.Bits())))
		a.family[family] = ours
		served := slices.ContainsFunc(frontends, func(f lb.Frontend) bool { return lb.FamilyOf(f.Addr.Addr()) == family })
		if mask != nil && mended && !served {
			y.add(mask.Line, at, fmt.Sprintf("%s is for %s, and no frontend of the service is", masks[family], family), "remove it")
		}
	}
	return a
}
