// SPDX-License-Identifier: Apache-2.0

package lb

import (
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// Check says what contradicts itself in a service, whatever dataplane serves it:
// addresses, ports, thresholds, options. The scheduler's name and flags are
// package sched's.
func (s *Service) Check() error {
	if s.ID.Family != IPv4 && s.ID.Family != IPv6 {
		return fmt.Errorf("service %q: family %d: write 4 or 6", s.ID.Name, s.ID.Family)
	}
	if err := s.checkOptions(); err != nil {
		return fmt.Errorf("service %s: %w", s.ID, err)
	}
	for _, f := range s.Frontends {
		if err := s.checkFrontend(f); err != nil {
			return fmt.Errorf("service %s: frontend %s: %w", s.ID, f, err)
		}
	}
	for i, r := range s.SourceRanges {
		if i > 0 && s.SourceRanges[i-1].Compare(r) >= 0 {
			return fmt.Errorf("service %s: source range %s is not behind %s: sort them, each once", s.ID, r, s.SourceRanges[i-1])
		}
		if !r.IsValid() || FamilyOf(r.Addr()) != s.ID.Family || r.Addr().Is4In6() || r != r.Masked() {
			return fmt.Errorf("service %s: source range %s: write a network of the service's family, such as 192.0.2.0/24", s.ID, r)
		}
	}
	for i := range s.Backends {
		if err := s.checkBackend(&s.Backends[i]); err != nil {
			return fmt.Errorf("service %s: backend %s: %w", s.ID, s.Backends[i].Addr, err)
		}
	}
	if twice := s.repeated(); twice.IsValid() {
		return fmt.Errorf("service %s: backend %s appears twice: write it once", s.ID, twice)
	}
	return nil
}

// repeated returns the address of a backend that is there twice, the zero one if
// none is. Most lists are in the order of addresses, up or down, and show it.
func (s *Service) repeated() netip.AddrPort {
	up, down := true, true
	for i := 1; i < len(s.Backends) && (up || down); i++ {
		c := s.Backends[i-1].Addr.Compare(s.Backends[i].Addr)
		up, down = up && c < 0, down && c > 0
	}
	if up || down {
		return netip.AddrPort{}
	}
	seen := make(map[netip.AddrPort]bool, len(s.Backends))
	for i := range s.Backends {
		addr := s.Backends[i].Addr
		if seen[addr] {
			return addr
		}
		seen[addr] = true
	}
	return netip.AddrPort{}
}

// MaxAffinity is the longest Affinity.Timeout: that of ipvsadm.
const MaxAffinity = 31 * 24 * time.Hour

func (s *Service) checkOptions() error {
	switch a := s.Affinity; {
	case a.Timeout%time.Second != 0 || a.Timeout < 0 || a.Timeout > MaxAffinity:
		return fmt.Errorf("affinity of %s: write whole seconds, at most %.0fh", a.Timeout, MaxAffinity.Hours())
	case int(a.Prefix) > s.ID.Family.Bits():
		return fmt.Errorf("affinity by %d bits of the client's address: write at most %d", a.Prefix, s.ID.Family.Bits())
	case s.OnePacket && s.Masquerade() != MasqueradeNever:
		return errors.New("one-packet scheduling keeps nothing by which an answer could be led back: write masquerade: never")
	}
	return nil
}

func (s *Service) checkBackend(b *Backend) error {
	if err := checkAddr(s.ID.Family, b.Addr); err != nil {
		return err
	}
	if b.Lower > b.Upper {
		return fmt.Errorf("the lower threshold %d is above the upper one, %d: write at most that", b.Lower, b.Upper)
	}
	for _, f := range s.Frontends {
		switch {
		case f.Addr.Port() != 0 && b.Addr.Port() == 0:
			return fmt.Errorf("port 0 is for services of any port, and frontend %s has one: write 1 to 65535", f)
		case f.Protocol == SCTP && f.Addr.Port() != b.Addr.Port(): // its checksum covers the whole packet
			return fmt.Errorf("ports of SCTP cannot be translated: write port %d, as in frontend %s", f.Addr.Port(), f)
		}
	}
	return nil
}

func (s *Service) checkFrontend(f Frontend) error {
	if f.Protocol != TCP && f.Protocol != UDP && f.Protocol != SCTP {
		return fmt.Errorf("protocol %s is not supported: write TCP, UDP or SCTP", f.Protocol)
	}
	if err := checkAddr(s.ID.Family, f.Addr); err != nil {
		return err
	}
	if f.Addr.Port() == 0 && f.IsNodePort() {
		return errors.New("a node port must be a port: write 1 to 65535")
	}
	if f.Addr.Port() == 0 && !s.Affinity.Enabled() { // as in IPVS: else each port's connections go anywhere
		return errors.New("port 0 (any port) needs affinity: write affinity: {timeout: 300s}, or a port from 1 to 65535")
	}
	return nil
}

func checkAddr(family Family, a netip.AddrPort) error {
	switch addr := a.Addr(); {
	case !addr.IsValid():
		return errors.New("no address: write an IP address and a port")
	case addr.Is4In6():
		return fmt.Errorf("an IPv4 address in IPv6 form: write %s", addr.Unmap())
	case addr.Zone() != "":
		return fmt.Errorf("zone %q is not yet supported: write an address without a zone", addr.Zone())
	case FamilyOf(addr) != family:
		return fmt.Errorf("the address is of another family than the service, which is %s", family)
	}
	return nil
}
