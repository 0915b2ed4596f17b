// SPDX-License-Identifier: Apache-2.0

package ipvsadm

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"

	"github.com/waggle-lb/waggle/lb"
)

// Save writes a snapshot as rules, for ipvsadm -R or `waggle run --services`.
// Each frontend becomes a service of its own. The oldest backend comes first, so
// that the lists of backends become the same again, and thresholds are there.
//
// If sorted is true, the text is what ipvsadm -S -n would print: backends by
// address, and no thresholds.
//
// The notes say, a line each, what the rules leave out.
func Save(w io.Writer, s *lb.Snapshot, sorted bool) (notes []string, err error) {
	out := bufio.NewWriter(w)
	for _, svc := range Services(s) {
		svc.save(out, sorted)
	}
	if err := out.Flush(); err != nil {
		return nil, fmt.Errorf("write rules: %w", err)
	}
	return leftOut(s, sorted), nil
}

// save leaves errors to the flush.
func (s *Service) save(w *bufio.Writer, asTool bool) {
	at := option(s.Frontend)
	fmt.Fprintf(w, "-A %s -s %s%s", at, s.Scheduler, s.persistence(" -p", " -M"))
	if s.OnePacket {
		fmt.Fprint(w, " -o")
	}
	if f := s.flags(); f != "" {
		fmt.Fprintf(w, " -b %s", f)
	}
	fmt.Fprintln(w)
	servers := slices.Clone(s.Servers)
	slices.Reverse(servers)
	if asTool {
		servers = sorted(s.Servers)
	}
	for _, k := range servers {
		fmt.Fprintf(w, "-a %s -r %s -m -w %d", at, k.Addr, k.Weight)
		if k.Upper > 0 && !asTool {
			fmt.Fprintf(w, " -x %d", k.Upper)
		}
		if k.Lower > 0 && !asTool {
			fmt.Fprintf(w, " -y %d", k.Lower)
		}
		fmt.Fprintln(w)
	}
}

// mostThreshold is the largest one that ipvsadm takes.
const mostThreshold = math.MaxInt32

// leftOut says what the rules of a snapshot do not.
func leftOut(s *lb.Snapshot, sorted bool) (notes []string) {
	named := false
	for svc := range s.All() {
		f := svc.Frontends
		named = named || len(f) > 1 || len(f) == 1 && f[0].String() != svc.ID.Name
		for _, what := range slices.Concat(serviceNotes(svc), backendNotes(svc, sorted)) {
			notes = append(notes, fmt.Sprintf("service %s: %s", svc.ID, what))
		}
	}
	if named {
		notes = append(notes, "names of services are not in the text: read again, each has that of its frontend, such as 203.0.113.10:80/TCP")
	}
	return notes
}

// sysctls are where IPVS has, for all services at once, what waggle has for each.
var (
	lostSysctl  = map[lb.Lost]string{lb.LostReset: "expire_nodest_conn=1", lb.LostDrop: "expire_nodest_conn=0"}
	reuseSysctl = map[lb.Reuse]string{lb.ReuseFinished: "conn_reuse_mode=1", lb.ReuseNever: "conn_reuse_mode=0"}
)

func serviceNotes(svc *lb.Service) (notes []string) {
	add := func(format string, args ...any) { notes = append(notes, fmt.Sprintf(format, args...)) }
	const sysctl = "%s has no form in ipvsadm: in IPVS it is net.ipv4.vs.%s, for all services"
	switch n := len(svc.Frontends); {
	case n == 0:
		add("it has no frontend, and so is not in the text")
	case n > 1:
		add("its %d frontends become services of their own, with turns and counts of their own", n)
	}
	if m := svc.Masquerade(); m != lb.MasqueradeNever {
		add("masquerade: %s has no form in ipvsadm", m)
	}
	if svc.Affinity.Enabled() && svc.Affinity.Quiesced {
		add(sysctl, "quiesced: keep", "expire_quiescent_template=0")
	}
	if svc.Affinity.Enabled() && svc.Affinity.Lapses {
		add("in IPVS its affinity does not end before the connections do, and here it does")
	}
	if s := lostSysctl[svc.Lost]; s != "" {
		add(sysctl, "lostBackend: "+svc.Lost.String(), s)
	}
	if s := reuseSysctl[svc.Reuse]; s != "" {
		add(sysctl, "portReuse: "+svc.Reuse.String(), s)
	}
	if svc.HostSockets {
		add("sockets: host has no form in ipvsadm: IPVS leads no sockets")
	}
	return notes
}

func backendNotes(svc *lb.Service, sorted bool) (notes []string) {
	var unhealthy, limited, large []string
	for _, b := range svc.Backends {
		if b.Unhealthy {
			unhealthy = append(unhealthy, b.Addr.String())
		}
		if b.Upper > 0 {
			limited = append(limited, b.Addr.String())
		}
		if b.Upper > mostThreshold {
			large = append(large, b.Addr.String())
		}
	}
	if len(unhealthy) > 0 {
		notes = append(notes, "unhealthy has no form in ipvsadm, weight 0 stands for it: "+strings.Join(unhealthy, ", "))
	}
	switch {
	case sorted && len(limited) > 0:
		notes = append(notes, "thresholds are not in the text, as ipvsadm -S does not print them: "+strings.Join(limited, ", "))
	case !sorted && len(large) > 0:
		notes = append(notes, fmt.Sprintf("ipvsadm takes thresholds up to %d, these have more: %s", mostThreshold, strings.Join(large, ", ")))
	}
	return notes
}
