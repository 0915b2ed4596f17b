// SPDX-License-Identifier: Apache-2.0

package fake

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/lb/sched"
)

// The limits of the eBPF dataplane.
const (
	maxName     = 191                 // bytes of a service's name
	maxLeast    = 1 << 14             // backends that a scheduler compares
	maxAffinity = 31 * 24 * time.Hour // as for ipvsadm
)

// Supports implements dataplane.Dataplane: it takes what the eBPF dataplane does.
func (d *Dataplane) Supports(svc *lb.Service) error {
	if svc.ID.Family != lb.IPv4 && svc.ID.Family != lb.IPv6 {
		return fmt.Errorf("service %q: family %d: write 4 or 6", svc.ID.Name, svc.ID.Family)
	}
	if name := svc.ID.Name; len(name) > maxName || strings.Contains(name, "\x00") {
		return fmt.Errorf("service %s: the name has %d bytes: write at most %d, without NUL", svc.ID, len(name), maxName)
	}
	scheduler, err := sched.Find(svc.Scheduler)
	if err == nil {
		err = scheduler.Takes(svc.SchedulerFlags)
	}
	if err == nil {
		err = supportsOptions(svc)
	}
	if err != nil {
		return fmt.Errorf("service %s: %w", svc.ID, err)
	}
	for _, f := range svc.Frontends {
		if err := supportsFrontend(svc, f); err != nil {
			return fmt.Errorf("service %s: frontend %s: %w", svc.ID, f, err)
		}
	}
	seen := make(map[netip.AddrPort]bool, len(svc.Backends))
	for _, b := range svc.Backends {
		if err := supportsBackend(svc, b); err != nil {
			return fmt.Errorf("service %s: backend %s: %w", svc.ID, b.Addr, err)
		}
		if seen[b.Addr] {
			return fmt.Errorf("service %s: backend %s appears twice: write it once, with the sum of the weights", svc.ID, b.Addr)
		}
		seen[b.Addr] = true
	}
	return nil
}

func supportsOptions(svc *lb.Service) error {
	switch a := svc.Affinity; {
	case a.Timeout < 0 || a.Timeout > maxAffinity || a.Timeout%time.Second != 0:
		return fmt.Errorf("affinity of %s: write whole seconds, at most %.0fh", a.Timeout, maxAffinity.Hours())
	case int(a.Prefix) > svc.ID.Family.Bits():
		return fmt.Errorf("affinity by %d bits of an address: write at most %d", a.Prefix, svc.ID.Family.Bits())
	case svc.OnePacket && svc.Masquerade == lb.MasqueradeAlways:
		return fmt.Errorf("answers to one-packet scheduling could not be led back: write masquerade: never")
	}
	return nil
}

func supportsFrontend(svc *lb.Service, f lb.Frontend) error {
	if f.Protocol != lb.TCP && f.Protocol != lb.UDP && f.Protocol != lb.SCTP {
		return fmt.Errorf("protocol %s is not supported: write TCP, UDP or SCTP", f.Protocol)
	}
	if f.Addr.Port() == 0 && !svc.Affinity.Enabled() {
		return fmt.Errorf("port 0 (any port) without affinity: write a port from 1 to 65535, or add affinity: {timeout: 300s}")
	}
	return supportsAddr(svc, f.Addr.Addr())
}

func supportsBackend(svc *lb.Service, b lb.Backend) error {
	if b.Lower > b.Upper {
		return fmt.Errorf("lower threshold %d is above the upper one, %d: write %d or less", b.Lower, b.Upper, b.Upper)
	}
	for _, f := range svc.Frontends {
		if f.Addr.Port() != 0 && b.Addr.Port() == 0 {
			return fmt.Errorf("it keeps the port that the client asked for (0), and frontend %s has one: write a port from 1 to 65535", f)
		}
		if f.Protocol == lb.SCTP && f.Addr.Port() != b.Addr.Port() {
			return fmt.Errorf("ports of SCTP cannot be translated: write port %d, as in frontend %s", f.Addr.Port(), f)
		}
	}
	return supportsAddr(svc, b.Addr.Addr())
}

func supportsAddr(svc *lb.Service, a netip.Addr) error {
	switch {
	case !a.IsValid():
		return fmt.Errorf("no address: write an IP address and a port")
	case a.Is4In6():
		return fmt.Errorf("an IPv4 address in IPv6 form: write %s", a.Unmap())
	case a.Zone() != "":
		return fmt.Errorf("zone %q is not yet supported: write an address without a zone", a.Zone())
	case lb.FamilyOf(a) != svc.ID.Family:
		return fmt.Errorf("of the other address family: make it a service of its own")
	}
	return nil
}

// supportsRun says whether the eBPF dataplane could pick from a run.
func supportsRun(svc *lb.Service, run *sched.Run) error {
	if n := len(run.Slots); run.Rule == sched.Least && n > maxLeast {
		return fmt.Errorf("scheduler %s takes at most %d backends of weight 1 or more, there are %d: write rr or wrr", svc.Scheduler, maxLeast, n)
	}
	return nil
}
