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
	// refused says that an error names it.
	refused bool
}

// serviceFields and backendFields are the fields of their entries, in the order
// of the page.
var (
	serviceFields = []string{"name", "frontends", "scheduler", "flags", "affinity", "onePacket", "masquerade", "lostBackend", "portReuse", "sockets", "backends"}
	backendFields = []string{"address", "weight", "upperThreshold", "lowerThreshold", "unhealthy"}
)

// service reads one element of services. It becomes one service for each
// family that it has frontends of. What comes back after an error is of no
// use: the file is refused.
func (y *yamlReader) service(n *yaml.Node, path string) []*lb.Service {
	f := y.fields(n, path, nil, serviceFields...)
	if f == nil {
		return nil
	}
	common := lb.Service{
		ID:          lb.ServiceID{Name: y.name(n, f["name"], path+".name")},
		OnePacket:   y.boolean(f["onePacket"], path+".onePacket"),
		Lost:        lb.Lost(y.word(f["lostBackend"], path+".lostBackend", "keep", "reset", "drop")),
		Reuse:       lb.Reuse(y.word(f["portReuse"], path+".portReuse", "any", "finished", "never")),
		HostSockets: y.word(f["sockets"], path+".sockets", lb.SocketWords...) > 0,
	}
	masquerade := lb.Masquerade(y.word(f["masquerade"], path+".masquerade", "never", "always"))
	common.Scheduler, common.SchedulerFlags = y.scheduler(f["scheduler"], f["flags"], path)
	before := len(y.list)
	frontends := y.frontends(n, f["frontends"], path+".frontends")
	mended := len(y.list) == before
	backends := y.backends(n, f["backends"], path+".backends")
	affinity := y.affinity(f["affinity"], path+".affinity", frontends, mended)
	if mended {
		y.ports(frontends, path+".frontends", backends, affinity.given)
	}
	if common.OnePacket {
		y.onePacket(f["onePacket"], path+".onePacket", frontends, masquerade)
	}

	var out []*lb.Service
	for _, family := range []lb.Family{lb.IPv4, lb.IPv6} {
		svc := common
		svc.ID.Family = family
		svc.Affinity = affinity.family[family]
		for _, fe := range frontends {
			if lb.FamilyOf(fe.Addr.Addr()) == family {
				fe.Masquerade = masquerade
				svc.Frontends = append(svc.Frontends, fe)
			}
		}
		// A frontend that could not be read may be the one that backends wait for.
		svc.Backends = y.ofFamily(backends, family, mended && len(svc.Frontends) == 0)
		if p := checkLength(&svc); p != nil {
			y.addProblem(f["backends"].Line, path+".backends", p)
		}
		if len(svc.Frontends) > 0 {
			out = append(out, &svc)
		}
	}
	return out
}

// ofFamily returns the backends of one family, the newest first. alone says
// that no frontend is of the family.
func (y *yamlReader) ofFamily(backends []placed, family lb.Family, alone bool) (out []lb.Backend) {
	for _, b := range backends {
		if lb.FamilyOf(b.Addr.Addr()) != family {
			continue
		}
		out = append(out, b.Backend)
		if alone {
			y.add(b.line, b.path, fmt.Sprintf("backend %s is %s and no frontend of the service is", b.Addr, family),
				"add a frontend of this family or remove the backend")
		}
	}
	slices.Reverse(out)
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

// scheduler reads the scheduler and its flags.
func (y *yamlReader) scheduler(name, flags *yaml.Node, path string) (string, lb.SchedulerFlags) {
	scheduler := y.opts.DefaultScheduler
	if name != nil {
		s, ok := y.text(name, path+".scheduler")
		if !ok {
			return "", 0
		}
		if p := checkScheduler(s); p != nil {
			y.addProblem(name.Line, path+".scheduler", p)
			return "", 0
		}
		scheduler = s
	}
	if flags == nil {
		return scheduler, 0
	}
	var words []string
	for i, item := range y.items(flags, path+".flags") {
		s, ok := y.text(item, fmt.Sprintf("%s.flags[%d]", path, i))
		if !ok {
			return scheduler, 0
		}
		words = append(words, s)
	}
	f, p := parseFlags(scheduler, words)
	if p != nil {
		y.addProblem(flags.Line, path+".flags", p)
	}
	return scheduler, f
}

// onePacket checks a service that has it.
func (y *yamlReader) onePacket(n *yaml.Node, path string, frontends []lb.Frontend, m lb.Masquerade) {
	i := slices.IndexFunc(frontends, func(f lb.Frontend) bool { return f.Protocol != lb.UDP })
	switch {
	case i >= 0:
		y.add(n.Line, path, fmt.Sprintf("one-packet scheduling is for UDP, and frontend %s is not", frontends[i]), "remove it, or write a service for UDP alone")
	case m == lb.MasqueradeAlways:
		y.add(n.Line, path, "nothing is kept of one packet, and masquerade: always needs a flow for the answer", "remove one of the two")
	}
}

// ports checks the ports of frontends and backends together.
func (y *yamlReader) ports(frontends []lb.Frontend, path string, backends []placed, affinity bool) {
	for _, family := range []lb.Family{lb.IPv4, lb.IPv6} {
		var sctp, fixed *lb.Frontend // the first of SCTP, the first other one that is for one port
		for i, f := range frontends {
			if lb.FamilyOf(f.Addr.Addr()) != family {
				continue
			}
			at, port := fmt.Sprintf("%s[%d]", path, i), f.Addr.Port()
			if port == 0 && !affinity {
				y.addProblem(y.seen.frontends[f], at, &problem{"port 0 (any port) without affinity", "write a port from 1 to 65535, or add affinity: {timeout: 300s}"})
			}
			switch {
			case f.Protocol == lb.SCTP && sctp == nil:
				sctp = &f
			case f.Protocol == lb.SCTP && port != sctp.Addr.Port():
				y.add(y.seen.frontends[f], at, fmt.Sprintf("%s has another port than %s, and ports of SCTP cannot be translated", f, sctp), "write a service for each port")
				return
			case f.Protocol != lb.SCTP && port != 0 && fixed == nil:
				fixed = &f
			}
		}
		y.backendPorts(sctp, family, backends)
		y.backendPorts(fixed, family, backends)
	}
}

// backendPorts adds what is wrong with the backends' ports behind a frontend.
func (y *yamlReader) backendPorts(f *lb.Frontend, family lb.Family, backends []placed) {
	for i, b := range backends {
		if f == nil || b.refused || lb.FamilyOf(b.Addr.Addr()) != family {
			continue
		}
		if p := checkPorts(*f, b.Addr); p != nil {
			y.addProblem(b.line, b.path, p)
			backends[i].refused = true
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
		f := y.fields(item, at, example, backendFields...)
		if f == nil {
			continue
		}
		address := f["address"]
		if address == nil {
			y.add(item.Line, at+".address", "missing", "write address: 192.0.2.2:8080")
			continue
		}
		b := placed{line: address.Line, path: at + ".address"}
		before := len(y.list)
		b.Weight = uint16(y.number(f["weight"], at+".weight", 0, lb.MaxWeight, 1))
		b.Upper = uint32(y.number(f["upperThreshold"], at+".upperThreshold", 0, maxThreshold, 0))
		b.Lower = uint32(y.number(f["lowerThreshold"], at+".lowerThreshold", 0, maxThreshold, 0))
		b.Unhealthy = y.boolean(f["unhealthy"], at+".unhealthy")
		if p := checkThresholds(&b.Backend, "upperThreshold: ", "lowerThreshold: "); p != nil && len(y.list) == before {
			y.addProblem(f["lowerThreshold"].Line, at+".lowerThreshold", p)
		}
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
