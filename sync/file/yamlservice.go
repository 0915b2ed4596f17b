// SPDX-License-Identifier: Apache-2.0

package file

import (
	"fmt"
	"net/netip"
	"slices"

	"go.yaml.in/yaml/v3"

	"github.com/waggle-lb/waggle/lb"
)

// placed is a backend and where the file has it.
type placed struct {
	lb.Backend
	line int
	path string
}

// service reads one element of services. It becomes one service for each
// family that it has frontends of. What comes back after an error is of no
// use: the file is refused.
func (y *yamlReader) service(n *yaml.Node, path string) []*lb.Service {
	f := y.fields(n, path, nil, "name", "frontends", "scheduler", "masquerade", "backends")
	if f == nil {
		return nil
	}
	name := y.name(n, f["name"], path+".name")
	scheduler := y.scheduler(f["scheduler"], path+".scheduler")
	masquerade := y.masquerade(f["masquerade"], path+".masquerade")
	before := len(y.list)
	frontends := y.frontends(n, f["frontends"], path+".frontends")
	mended := len(y.list) == before
	backends := y.backends(n, f["backends"], path+".backends")
	if mended {
		y.sctp(frontends, path+".frontends", backends)
	}

	var out []*lb.Service
	for _, family := range []lb.Family{lb.IPv4, lb.IPv6} {
		svc := &lb.Service{ID: lb.ServiceID{Name: name, Family: family}, Scheduler: scheduler, Masquerade: masquerade}
		for _, fe := range frontends {
			if lb.FamilyOf(fe.Addr.Addr()) == family {
				svc.Frontends = append(svc.Frontends, fe)
			}
		}
		for _, b := range backends {
			if lb.FamilyOf(b.Addr.Addr()) != family {
				continue
			}
			svc.Backends = append(svc.Backends, b.Backend)
			// A frontend that could not be read may be the one it waits for.
			if len(svc.Frontends) == 0 && mended {
				y.add(b.line, b.path, fmt.Sprintf("backend %s is %s and no frontend of the service is", b.Addr, family),
					"add a frontend of this family or remove the backend")
			}
		}
		slices.Reverse(svc.Backends)
		if p := checkWeights(svc); p != nil {
			y.addProblem(f["backends"].Line, path+".backends", p)
		}
		if len(svc.Frontends) > 0 {
			out = append(out, svc)
		}
	}
	return out
}

func (y *yamlReader) name(parent, n *yaml.Node, path string) string {
	if n == nil {
		y.add(parent.Line, path, "missing", "write name: and a name that no other service has")
		return ""
	}
	s, ok := y.text(n, path)
	if !ok {
		return ""
	}
	if !namePattern.MatchString(s) {
		y.add(n.Line, path, fmt.Sprintf("bad name %q", s), "write letters, digits and . _ : / [ ] -, a letter or digit first")
		return ""
	}
	if len(s) > maxName {
		y.add(n.Line, path, fmt.Sprintf("name of %d characters", len(s)), fmt.Sprintf("write at most %d", maxName))
		return ""
	}
	if p := y.seen.addName(s, n.Line); p != nil {
		y.addProblem(n.Line, path, p)
	}
	return s
}

func (y *yamlReader) scheduler(n *yaml.Node, path string) string {
	if n == nil {
		return y.opts.DefaultScheduler
	}
	s, ok := y.text(n, path)
	if !ok {
		return ""
	}
	if p := checkScheduler(s); p != nil {
		y.addProblem(n.Line, path, p)
	}
	return s
}

func (y *yamlReader) masquerade(n *yaml.Node, path string) lb.Masquerade {
	if n == nil {
		return lb.MasqueradeNever
	}
	if !y.plain(n, path) {
		return lb.MasqueradeNever
	}
	for _, m := range []lb.Masquerade{lb.MasqueradeNever, lb.MasqueradeAlways} {
		if n.Kind == yaml.ScalarNode && n.Value == m.String() {
			return m
		}
	}
	y.add(n.Line, path, fmt.Sprintf("unknown word %q", n.Value), fmt.Sprintf("write %s or %s", lb.MasqueradeNever, lb.MasqueradeAlways))
	return lb.MasqueradeNever
}

// sctp checks that the backends have the ports of the frontends of SCTP.
func (y *yamlReader) sctp(frontends []lb.Frontend, path string, backends []placed) {
	for _, family := range []lb.Family{lb.IPv4, lb.IPv6} {
		var first lb.Frontend
		for i, f := range frontends {
			switch {
			case f.Protocol != lb.SCTP || lb.FamilyOf(f.Addr.Addr()) != family:
			case first == (lb.Frontend{}):
				first = f
			case f.Addr.Port() != first.Addr.Port():
				y.add(y.seen.frontends[f], fmt.Sprintf("%s[%d]", path, i),
					fmt.Sprintf("%s has another port than %s, and ports of SCTP cannot be translated", f, first), "write a service for each port")
				return
			}
		}
		for _, b := range backends {
			if lb.FamilyOf(b.Addr.Addr()) != family {
				continue
			}
			if p := checkPorts(first, b.Addr); p != nil {
				y.addProblem(b.line, b.path, p)
			}
		}
	}
}

func (y *yamlReader) frontends(parent, n *yaml.Node, path string) []lb.Frontend {
	const example = `["203.0.113.10:80/TCP"]`
	if n == nil || isNull(n) || n.Kind == yaml.SequenceNode && len(n.Content) == 0 {
		line := parent.Line
		if n != nil {
			line = n.Line
		}
		y.add(line, path, "no frontend", "write at least one: "+example)
		return nil
	}
	if n.Kind != yaml.SequenceNode && y.plain(n, path) {
		y.add(n.Line, path, "not a list", "write a list of at least one: "+example)
		return nil
	}
	var out []lb.Frontend
	for i, item := range y.items(n, path) {
		at := fmt.Sprintf("%s[%d]", path, i)
		s, ok := y.text(item, at)
		if !ok {
			continue
		}
		f, p := parseFrontend(s)
		if p == nil {
			p = y.seen.addFrontend(f, item.Line)
		}
		if p != nil {
			y.addProblem(item.Line, at, p)
			continue
		}
		out = append(out, f)
	}
	return out
}

// backends returns the backends in the order of the file.
func (y *yamlReader) backends(parent, n *yaml.Node, path string) []placed {
	if n == nil {
		y.add(parent.Line, path, "missing", "to have none, write backends: []")
		return nil
	}
	example := &problem{"not a backend", `write {address: "192.0.2.2:8080", weight: 1}`}
	first := make(map[netip.AddrPort]int)
	var out []placed
	for i, item := range y.items(n, path) {
		at := fmt.Sprintf("%s[%d]", path, i)
		f := y.fields(item, at, example, "address", "weight")
		if f == nil {
			continue
		}
		address := f["address"]
		if address == nil {
			y.add(item.Line, at+".address", "missing", "write address: 192.0.2.2:8080")
			continue
		}
		b := placed{line: address.Line, path: at + ".address"}
		b.Weight = y.weight(f["weight"], at+".weight")
		s, ok := y.text(address, b.path)
		if !ok {
			continue
		}
		var p *problem
		if b.Addr, p = parseAddrPort(s, "backend"); p == nil {
			p = addBackend(first, b.Addr, b.line)
		}
		if p != nil {
			y.addProblem(b.line, b.path, p)
			continue
		}
		out = append(out, b)
	}
	return out
}

// addBackend returns what is wrong with addr if its service has it already.
func addBackend(first map[netip.AddrPort]int, addr netip.AddrPort, line int) *problem {
	if l, ok := first[addr]; ok {
		return &problem{fmt.Sprintf("duplicate backend %s, first in line %d", addr, l), "remove one of them"}
	}
	first[addr] = line
	return nil
}

func (y *yamlReader) weight(n *yaml.Node, path string) uint16 {
	if n == nil {
		return 1
	}
	if !y.plain(n, path) {
		return 0
	}
	if n.Kind != yaml.ScalarNode || n.ShortTag() == "!!str" && n.Style != 0 {
		y.add(n.Line, path, "not a number", fmt.Sprintf("write 0 to %d without quotes", lb.MaxWeight))
		return 0
	}
	w, p := parseWeight(n.Value)
	if p != nil {
		y.addProblem(n.Line, path, p)
	}
	return w
}
