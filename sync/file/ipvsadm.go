// SPDX-License-Identifier: Apache-2.0

package file

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/bits"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

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
		if bad := checkLength(s.Service); bad != nil {
			p.addProblem(s.line, "", bad)
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
	scheduler, flags := p.scheduler(c)
	f, ok := p.frontend(c)
	if !ok {
		return
	}
	if bad := p.seen.addFrontend(f, c.line); bad != nil {
		p.addProblem(c.line, "", bad)
		return
	}
	family := lb.FamilyOf(f.Addr.Addr())
	_, onePacket := c.values["-o"]
	if onePacket && f.Protocol != lb.UDP {
		p.add(c.line, "-o", "one-packet scheduling is for UDP", "remove it, or write -u")
	}
	s := &server{
		Service: &lb.Service{
			ID:             lb.ServiceID{Name: f.String(), Family: family},
			Scheduler:      scheduler,
			SchedulerFlags: flags,
			Frontends:      []lb.Frontend{f},
			Affinity:       p.affinity(c, family),
			OnePacket:      onePacket,
		},
		line:  c.line,
		first: make(map[netip.AddrPort]int),
	}
	if _, affinity := c.values["-p"]; f.Addr.Port() == 0 && !affinity && !p.complained(c.line, "-p") {
		p.add(c.line, "", "port 0 (any port) without persistence", "add -p, or write a port from 1 to 65535")
	}
	p.services[f] = s
	p.order = append(p.order, s)
}

// scheduler reads the scheduler of a service and its flags.
func (p *ipvsadmReader) scheduler(c *command) (string, lb.SchedulerFlags) {
	scheduler, given := c.values["-s"]
	if !given {
		scheduler = ipvsadmScheduler
	}
	if bad := checkScheduler(scheduler); bad != nil {
		p.addProblem(c.line, "-s", bad)
		return "", 0
	}
	words, given := c.values["-b"]
	if !given {
		return scheduler, 0
	}
	flags, bad := parseFlags(scheduler, strings.Split(words, ","))
	if bad != nil && !p.complained(c.line, "-s") {
		p.addProblem(c.line, "-b", bad)
	}
	return scheduler, flags
}

// affinity reads -p and -M.
func (p *ipvsadmReader) affinity(c *command, family lb.Family) (a lb.Affinity) {
	timeout, given := c.values["-p"]
	mask, masked := c.values["-M"]
	switch {
	case !given && masked:
		p.add(c.line, "-M", "a netmask without persistence (-p)", "add -p, or remove it")
		return a
	case !given:
		return a
	}
	a = lb.Affinity{Timeout: defaultAffinity, Prefix: uint8(family.Bits())}
	if timeout != "" {
		seconds, bad := parseNumber("timeout", timeout, int64(minAffinity/time.Second), int64(maxAffinity/time.Second))
		if bad != nil {
			p.addProblem(c.line, "-p", bad)
		}
		a.Timeout = time.Duration(seconds) * time.Second
	}
	if masked {
		var bad *problem
		if a.Prefix, bad = parseMask(mask, family); bad != nil {
			p.addProblem(c.line, "-M", bad)
		}
	}
	return a
}

// parseMask reads a netmask as ipvsadm writes them: 255.255.255.0 for IPv4, the
// number of bits for IPv6. The one that matches all is not a mask of clients.
func parseMask(s string, family lb.Family) (uint8, *problem) {
	if family == lb.IPv6 {
		n, bad := parseNumber("netmask", s, 1, 128)
		return uint8(n), bad
	}
	if n, err := strconv.ParseUint(s, 10, 8); err == nil && n >= 1 && n <= 32 {
		return 0, &problem{fmt.Sprintf("netmask %s is a number of bits, which is the form of IPv6", s), "write " + dotted(int(n))}
	}
	addr, err := netip.ParseAddr(s)
	if err != nil || !addr.Is4() {
		return 0, &problem{fmt.Sprintf("bad netmask %q", s), "write one such as 255.255.255.0"}
	}
	octets := addr.As4()
	n := bits.LeadingZeros32(^binary.BigEndian.Uint32(octets[:]))
	switch {
	case n == 0:
		return 0, &problem{fmt.Sprintf("netmask %s keeps no bit of the client's address", s), "write 128.0.0.0 to 255.255.255.255"}
	case s != dotted(n):
		return 0, &problem{fmt.Sprintf("netmask %s has ones after a zero", s), "write one without, such as " + dotted(n)}
	}
	return uint8(n), nil
}

// dotted is the netmask of n bits for IPv4.
func dotted(n int) string { return net.IP(net.CIDRMask(n, 32)).String() }

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
	before := len(p.list)
	b.Weight = uint16(p.number(c, "-w", "weight", lb.MaxWeight, 1)) // 1 is ipvsadm's default
	b.Upper = uint32(p.number(c, "-x", "upper threshold", maxThreshold, 0))
	b.Lower = uint32(p.number(c, "-y", "lower threshold", maxThreshold, 0))
	if bad := checkThresholds(&b, "-x ", "-y "); bad != nil && len(p.list) == before && !p.complained(c.line, "-x", "-y") {
		p.addProblem(c.line, "-y", bad)
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

// number returns the value of an option, or otherwise if it is not there.
func (p *ipvsadmReader) number(c *command, field, what string, most, otherwise int64) int64 {
	s, given := c.values[field]
	if !given {
		return otherwise
	}
	n, bad := parseNumber(what, s, 0, most)
	if bad != nil {
		p.addProblem(c.line, field, bad)
	}
	return n
}
