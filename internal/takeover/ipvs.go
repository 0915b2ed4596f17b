// SPDX-License-Identifier: Apache-2.0

package takeover

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"syscall"

	"github.com/moby/ipvs"
	"github.com/vishvananda/netlink"
	"github.com/waggle-lb/waggle/lb"
)

// ipvsFile is there once the kernel has IPVS: to ask otherwise would load it.
const ipvsFile = "/proc/thread-self/net/ip_vs"

// servers are kube-proxy's virtual servers, and the device that has their addresses.
type servers struct {
	link    netlink.Link // nil: there is none
	addrs   int
	virtual []*ipvs.Service
	live    int // connections that they have
}

// findServers: kube-proxy's are those at an address of its device, and at this
// machine's own addresses with a port that its sets have. All others are foreign.
func findServers(sets ownSets) (*servers, error) {
	s := &servers{}
	link, err := netlink.LinkByName(device)
	var none netlink.LinkNotFoundError
	if errors.As(err, &none) {
		return s, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for device %s: %w", device, err)
	}
	if link.Type() != "dummy" {
		return s, nil // somebody's who likes the name
	}
	s.link = link
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	at := make(map[netip.Addr]bool) // whether the address is the device's
	for _, a := range addrs {
		if ip, ok := netip.AddrFromSlice(a.IP); ok {
			ours := a.LinkIndex == link.Attrs().Index
			at[ip.Unmap()] = at[ip.Unmap()] || ours
			if ours {
				s.addrs++
			}
		}
	}
	return s, s.find(at, sets.nodePorts())
}

func (s *servers) find(at map[netip.Addr]bool, nodePorts []uint16) error {
	if _, err := os.Stat(ipvsFile); err != nil {
		return nil
	}
	h, err := ipvs.New("")
	if err != nil {
		return fmt.Errorf("open IPVS: %w", err)
	}
	defer h.Close()
	all, err := h.GetServices()
	if err != nil {
		return fmt.Errorf("list virtual servers: %w", err)
	}
	for _, v := range all {
		ip, ok := netip.AddrFromSlice(v.Address)
		if !ok || v.FWMark != 0 {
			continue
		}
		ofDevice, local := at[ip.Unmap()]
		if !ofDevice && (!local || !slices.Contains(nodePorts, v.Port)) {
			continue
		}
		s.virtual = append(s.virtual, v)
		if lb.Protocol(v.Protocol) == lb.UDP {
			continue
		}
		backends, err := h.GetDestinations(v)
		if err != nil {
			return fmt.Errorf("list the servers of %s:%d: %w", ip, v.Port, err)
		}
		for _, b := range backends {
			s.live += b.ActiveConnections
		}
	}
	return nil
}

func (s *servers) items() (out []string) {
	if len(s.virtual) > 0 {
		out = append(out, fmt.Sprintf("%d virtual servers of IPVS", len(s.virtual)))
	}
	if s.link != nil {
		out = append(out, fmt.Sprintf("device %s with %d addresses", device, s.addrs))
	}
	return out
}

func (s *servers) remove() error {
	if len(s.virtual) > 0 {
		h, err := ipvs.New("")
		if err != nil {
			return fmt.Errorf("open IPVS: %w", err)
		}
		defer h.Close()
		for _, v := range s.virtual {
			if err := h.DelService(v); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("remove the virtual server %s:%d: %w", v.Address, v.Port, err)
			}
		}
	}
	if s.link == nil {
		return nil
	}
	if err := netlink.LinkDel(s.link); err != nil && !errors.Is(err, syscall.ENODEV) {
		return fmt.Errorf("remove device %s: %w", device, err)
	}
	return nil
}

// ownSets are kube-proxy's ipsets.
type ownSets []netlink.IPSetResult

func findSets() (ownSets, error) {
	if !hasModule("ip_set") {
		return nil, nil
	}
	all, err := netlink.IpsetListAll()
	if err != nil {
		return nil, fmt.Errorf("list ipsets: %w", err)
	}
	return slices.DeleteFunc(all, func(s netlink.IPSetResult) bool { return !isOneOf(proxySets, s.SetName) }), nil
}

func (o ownSets) nodePorts() (ports []uint16) {
	for _, s := range o {
		if !isOneOf(nodePortSets, s.SetName) {
			continue
		}
		for _, e := range s.Entries {
			if e.Port != nil {
				ports = append(ports, *e.Port)
			}
		}
	}
	return ports
}

func (o ownSets) items() []string {
	if len(o) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("%d ipsets", len(o))}
}

// remove comes after the rules that match them are gone.
func (o ownSets) remove() error {
	var errs []error
	for _, s := range o {
		if err := netlink.IpsetDestroy(s.SetName); err != nil {
			errs = append(errs, fmt.Errorf("remove ipset %s: %w", s.SetName, err))
		}
	}
	return errors.Join(errs...)
}
