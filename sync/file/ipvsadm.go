// SPDX-License-Identifier: Apache-2.0

package file

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/waggle-lb/waggle/lb"
)

// ipvsadmScheduler is what ipvsadm takes if no -s is given (ipvsadm(8)).
const ipvsadmScheduler = "wlc"

// ipvsadmReader reads one file of ipvsadm text.
type ipvsadmReader struct {
	*collector
	table    map[string]*option
	seen     *index
	services map[lb.Frontend]*server
	order    []*server
}

// server is a service that is being read.
type server struct {
	*lb.Service
	line  int                    // of its -A
	first map[netip.AddrPort]int // the line of each backend
}

func parseIPVSADM(data []byte, errs *collector) []*lb.Service {
	p := &ipvsadmReader{
		collector: errs, table: optionTable(), seen: newIndex(),
		services: make(map[lb.Frontend]*server),
	}
	line := 0
	for text := range bytes.Lines(data) {
		line++
		words := strings.Fields(string(text))
		if len(words) == 0 || words[0][0] == '#' {
			continue
		}
		switch c := p.parseCommand(line, words); {
		case c == nil:
		case c.name == "-A":
			p.addService(c)
		default:
			p.addServer(c)
		}
	}
	out := make([]*lb.Service, 0, len(p.order))
	for _, s := range p.order {
		slices.Reverse(s.Backends)
		if bad := checkWeights(s.Service); bad != nil {
			p.addProblem(s.line, "-w", bad)
		}
		out = append(out, s.Service)
	}
	return out
}

// serviceOptions name a service.
var serviceOptions = [...]string{"-t", "-u", "--sctp-service"}

// frontend reads the address of a service. It adds what is wrong.
func (p *ipvsadmReader) frontend(c *command) (lb.Frontend, bool) {
	var given []string
	for _, field := range serviceOptions {
		if _, ok := c.values[field]; ok {
			given = append(given, field)
		}
	}
	switch {
	case len(given) > 1:
		p.add(c.line, given[1], fmt.Sprintf("both %s and %s", given[0], given[1]), "write one of them")
	case len(given) == 1:
		return p.address(c, given[0])
	case !c.unserved && !p.complained(c.line, serviceOptions[:]...):
		p.add(c.line, "", "no service", "write -t or -u and its address, such as -t 203.0.113.10:80")
	}
	return lb.Frontend{}, false
}

// complained reports whether one of these options of the line is refused
// already, so that it does not count as missing. line is the current one, whose
// errors are the last.
func (p *ipvsadmReader) complained(line int, fields ...string) bool {
	for i := len(p.list) - 1; i >= 0 && p.list[i].Line == line; i-- {
		if slices.Contains(fields, p.list[i].Field) {
			return true
		}
	}
	return false
}

// address reads the value of one of serviceOptions.
func (p *ipvsadmReader) address(c *command, field string) (lb.Frontend, bool) {
	proto := lb.SCTP
	switch field {
	case "-t":
		proto = lb.TCP
	case "-u":
		proto = lb.UDP
	}
	addr, bad := parseAddrPort(c.values[field], "VIP")
	if bad != nil {
		p.addProblem(c.line, field, bad)
		return lb.Frontend{}, false
	}
	return lb.Frontend{Addr: addr, Protocol: proto}, true
}

func (p *ipvsadmReader) addService(c *command) {
	scheduler, ok := c.values["-s"]
	if !ok {
		scheduler = ipvsadmScheduler
	}
	switch bad := checkScheduler(scheduler); {
	case bad == nil:
	case ok:
		p.addProblem(c.line, "-s", bad)
	case !p.complained(c.line, "-s"):
		p.add(c.line, "-s", "without it ipvsadm means "+ipvsadmScheduler+", and "+bad.what, "add -s wrr")
	}
	f, ok := p.frontend(c)
	if !ok {
		return
	}
	if bad := p.seen.addFrontend(f, c.line); bad != nil {
		p.addProblem(c.line, "", bad)
		return
	}
	s := &server{
		Service: &lb.Service{
			ID:        lb.ServiceID{Name: f.String(), Family: lb.FamilyOf(f.Addr.Addr())},
			Scheduler: scheduler,
			Frontends: []lb.Frontend{f},
		},
		line:  c.line,
		first: make(map[netip.AddrPort]int),
	}
	p.services[f] = s
	p.order = append(p.order, s)
}

func (p *ipvsadmReader) addServer(c *command) {
	f, known := p.frontend(c)
	if !c.method {
		p.add(c.line, "-m", "missing; without it ipvsadm means forwarding by route (-g), which is not yet supported", "add -m")
	}
	if c.unserved { // servers of a firewall mark look different
		return
	}
	b, ok := p.backend(c)
	if !known || !ok {
		return
	}
	s := p.services[f]
	if s == nil {
		p.add(c.line, "", fmt.Sprintf("no -A of service %s above", f), "write its -A before its -a")
		return
	}
	if family := lb.FamilyOf(b.Addr.Addr()); family != s.ID.Family {
		p.add(c.line, "-r", fmt.Sprintf("backend %s is %s, its service is %s", b.Addr, family, s.ID.Family), "write a backend of the service's family")
		return
	}
	bad := checkPorts(f, b.Addr)
	if bad == nil {
		bad = addBackend(s.first, b.Addr, c.line)
	}
	if bad != nil {
		p.addProblem(c.line, "-r", bad)
		return
	}
	s.Backends = append(s.Backends, b)
}

func (p *ipvsadmReader) backend(c *command) (b lb.Backend, ok bool) {
	b.Weight = 1 // ipvsadm's default
	if w, given := c.values["-w"]; given {
		var bad *problem
		if b.Weight, bad = parseWeight(w); bad != nil {
			p.addProblem(c.line, "-w", bad)
		}
	}
	r, given := c.values["-r"]
	if !given {
		if !p.complained(c.line, "-r") {
			p.add(c.line, "-r", "missing", "add -r and the backend's address, such as -r 192.0.2.2:8080")
		}
		return b, false
	}
	var bad *problem
	if b.Addr, bad = parseAddrPort(r, "backend"); bad != nil {
		p.addProblem(c.line, "-r", bad)
		return b, false
	}
	return b, true
}
