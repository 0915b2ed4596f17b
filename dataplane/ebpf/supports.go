// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/lb/sched"
	"github.com/waggle-lb/waggle/maps/info"
)

// supports is Dataplane.Supports: what can be said without compiling.
func supports(svc *lb.Service) error {
	if svc.ID.Family != lb.IPv4 && svc.ID.Family != lb.IPv6 {
		return fmt.Errorf("service %q: family %d: write 4 or 6", svc.ID.Name, svc.ID.Family)
	}
	if name := svc.ID.Name; len(name) > info.MaxName || strings.Contains(name, "\x00") {
		return fmt.Errorf("service %s: the name has %d bytes: write at most %d, without NUL", svc.ID, len(name), info.MaxName)
	}
	scheduler, err := sched.Find(svc.Scheduler)
	if err == nil {
		err = scheduler.Takes(svc.SchedulerFlags)
	}
	if err != nil {
		return fmt.Errorf("service %s: %w", svc.ID, err)
	}
	if err := supportsOptions(svc); err != nil {
		return fmt.Errorf("service %s: %w", svc.ID, err)
	}
	for _, f := range svc.Frontends {
		if err := supportsFrontend(svc, f); err != nil {
			return fmt.Errorf("service %s: frontend %s: %w", svc.ID, f, err)
		}
	}
	seen := make(map[netip.AddrPort]bool, len(svc.Backends))
	for _, b := range svc.Backends {
		if err := supportsBackend(svc, &b); err != nil {
			return fmt.Errorf("service %s: backend %s: %w", svc.ID, b.Addr, err)
		}
		if seen[b.Addr] {
			return fmt.Errorf("service %s: backend %s appears twice: write it once", svc.ID, b.Addr)
		}
		seen[b.Addr] = true
	}
	return nil
}

// maxAffinity is the longest of ipvsadm.
const maxAffinity = 31 * 24 * time.Hour

func supportsOptions(svc *lb.Service) error {
	switch a := svc.Affinity; {
	case a.Timeout%time.Second != 0 || a.Timeout < 0 || a.Timeout > maxAffinity:
		return fmt.Errorf("affinity of %s: write whole seconds, at most %.0fh", a.Timeout, maxAffinity.Hours())
	case int(a.Prefix) > svc.ID.Family.Bits():
		return fmt.Errorf("affinity by %d bits of the client's address: write at most %d", a.Prefix, svc.ID.Family.Bits())
	case svc.OnePacket && svc.Masquerade == lb.MasqueradeAlways:
		return fmt.Errorf("one-packet scheduling keeps nothing by which an answer could be led back: write masquerade: never")
	}
	return nil
}

func supportsBackend(svc *lb.Service, b *lb.Backend) error {
	if err := supportsAddr(svc.ID.Family, b.Addr); err != nil {
		return err
	}
	if b.Lower > b.Upper {
		return fmt.Errorf("the lower threshold %d is above the upper one, %d: write at most that", b.Lower, b.Upper)
	}
	for _, f := range svc.Frontends {
		switch {
		case f.Addr.Port() != 0 && b.Addr.Port() == 0:
			return fmt.Errorf("port 0 is for services of any port, and frontend %s has one: write 1 to 65535", f)
		case f.Protocol == lb.SCTP && f.Addr.Port() != b.Addr.Port(): // its checksum covers the whole packet
			return fmt.Errorf("ports of SCTP cannot be translated: write port %d, as in frontend %s", f.Addr.Port(), f)
		}
	}
	return nil
}

func supportsFrontend(svc *lb.Service, f lb.Frontend) error {
	if f.Protocol != lb.TCP && f.Protocol != lb.UDP && f.Protocol != lb.SCTP {
		return fmt.Errorf("protocol %s is not supported: write TCP, UDP or SCTP", f.Protocol)
	}
	if err := supportsAddr(svc.ID.Family, f.Addr); err != nil {
		return err
	}
	if f.Addr.Port() == 0 && !svc.Affinity.Enabled() { // as in IPVS: else each port's connections go anywhere
		return fmt.Errorf("port 0 (any port) needs affinity: write affinity: {timeout: 300s}, or a port from 1 to 65535")
	}
	return nil
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
	}
	return nil
}

// supportsRun says whether the kernel can pick from a run.
func supportsRun(svc *lb.Service, run *sched.Run) error {
	if n := len(run.Slots); run.Rule == sched.Least && n > int(bpf.LBLimitsMAX_LEAST) {
		return fmt.Errorf("service %s: scheduler %s takes at most %d backends of weight 1 or more, there are %d: write rr or wrr",
			svc.ID, svc.Scheduler, bpf.LBLimitsMAX_LEAST, n)
	}
	return nil
}
