// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/lb/sched"
	"github.com/waggle-lb/waggle/maps/info"
	"github.com/waggle-lb/waggle/maps/services"
)

// supports is Dataplane.Supports: what can be said without compiling.
func supports(svc *lb.Service) error {
	if svc.ID.Family != lb.IPv4 && svc.ID.Family != lb.IPv6 {
		return fmt.Errorf("service %q: family %d: write 4 or 6", svc.ID.Name, svc.ID.Family)
	}
	if name := svc.ID.Name; len(name) > info.MaxName || strings.Contains(name, "\x00") {
		return fmt.Errorf("service %s: the name has %d bytes: write at most %d, without NUL", svc.ID, len(name), info.MaxName)
	}
	if _, err := sched.Find(svc.Scheduler); err != nil {
		return fmt.Errorf("service %s: %w", svc.ID, err)
	}
	for _, f := range svc.Frontends {
		if err := supportsFrontend(svc.ID.Family, f); err != nil {
			return fmt.Errorf("service %s: frontend %s: %w", svc.ID, f, err)
		}
	}
	seen := make(map[netip.AddrPort]bool, len(svc.Backends))
	for _, b := range svc.Backends {
		if err := supportsAddr(svc.ID.Family, b.Addr); err != nil {
			return fmt.Errorf("service %s: backend %s: %w", svc.ID, b.Addr, err)
		}
		if seen[b.Addr] {
			return fmt.Errorf("service %s: backend %s appears twice: write it once", svc.ID, b.Addr)
		}
		seen[b.Addr] = true
		for _, f := range svc.Frontends {
			if f.Protocol == lb.SCTP && f.Addr.Port() != b.Addr.Port() { // its checksum covers the whole packet
				return fmt.Errorf("service %s: backend %s: ports of SCTP cannot be translated: write port %d, as in frontend %s", svc.ID, b.Addr, f.Addr.Port(), f)
			}
		}
	}
	return nil
}

func supportsFrontend(family lb.Family, f lb.Frontend) error {
	if f.Protocol != lb.TCP && f.Protocol != lb.UDP && f.Protocol != lb.SCTP {
		return fmt.Errorf("protocol %s is not supported: write TCP, UDP or SCTP", f.Protocol)
	}
	return supportsAddr(family, f.Addr)
}

func supportsAddr(family lb.Family, a netip.AddrPort) error {
	switch addr := a.Addr(); {
	case !addr.IsValid():
		return fmt.Errorf("no address: write an IP address and a port")
	case addr.Is4In6():
		return fmt.Errorf("an IPv4 address in IPv6 form: write %s", addr.Unmap())
	case addr.Zone() != "":
		return fmt.Errorf("zone %q is not yet supported: write an address without a zone", addr.Zone())
	case lb.FamilyOf(addr) != family:
		return fmt.Errorf("the address is of another family than the service, which is %s", family)
	case a.Port() == 0:
		return fmt.Errorf("port 0 is not yet supported: write 1 to 65535")
	}
	return nil
}

// supportsRun says whether the kernel can pick from a run.
func supportsRun(svc *lb.Service, run *sched.Run) error {
	if n := len(run.Slots); n > services.MaxCount {
		return fmt.Errorf("service %s: scheduler %s makes %d slots of these weights, at most %d are possible: write smaller weights",
			svc.ID, svc.Scheduler, n, services.MaxCount)
	}
	if n := len(run.Slots); run.Rule == sched.Least && n > int(bpf.LBLimitsMAX_LEAST) {
		return fmt.Errorf("service %s: scheduler %s takes at most %d backends of weight 1 or more, there are %d: write rr or wrr",
			svc.ID, svc.Scheduler, bpf.LBLimitsMAX_LEAST, n)
	}
	return nil
}
