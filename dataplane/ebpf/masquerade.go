// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/waggle-lb/waggle/internal/nlx"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/loader"
	"github.com/waggle-lb/waggle/maps/devices"
)

// PortRange is a range of ports, both ends included.
type PortRange struct{ First, Last uint16 }

// DefaultMasqueradePorts are what masquerading takes its ports from, if
// Options says nothing else: all but the well-known ones.
var DefaultMasqueradePorts = PortRange{1024, 65535}

// nodePorts is Kubernetes' default range of node ports.
var nodePorts = PortRange{30000, 32767}

// fewestPorts is how many ports must be left for masquerading.
const fewestPorts = 256

// masqueradePorts returns the ports of a range that nobody else takes: not the
// node's own connections (ip_local_port_range), not node ports, and not what
// the administrator reserved (ip_local_reserved_ports). With fewer than
// fewestPorts there is an error, too.
func masqueradePorts(from PortRange, local, reserved string) ([]uint16, error) {
	taken := []PortRange{nodePorts}
	words := strings.Fields(local)
	if len(words) != 2 {
		return nil, fmt.Errorf("net.ipv4.ip_local_port_range is %q: two numbers expected", local)
	}
	lists := []string{words[0] + "-" + words[1]}
	for part := range strings.SplitSeq(strings.TrimSpace(reserved), ",") {
		if part != "" {
			lists = append(lists, part)
		}
	}
	for _, text := range lists {
		r, err := ParsePortRange(text)
		if err != nil {
			return nil, fmt.Errorf("read the kernel's port ranges: %w", err)
		}
		taken = append(taken, r)
	}
	var ports []uint16
	for p := int(from.First); p <= int(from.Last); p++ {
		if !slices.ContainsFunc(taken, func(r PortRange) bool { return int(r.First) <= p && p <= int(r.Last) }) {
			ports = append(ports, uint16(p))
		}
	}
	if len(ports) < fewestPorts {
		return ports, fmt.Errorf("of the masquerade ports %d-%d only %d are nobody else's: widen --masquerade-ports, or narrow net.ipv4.ip_local_port_range (%d-%d)",
			from.First, from.Last, len(ports), taken[1].First, taken[1].Last)
	}
	return ports, nil
}

// choosePorts returns the ports for masquerading, and an error if a range that
// somebody asked for has too few. Nobody asked for the default, and a kernel
// that uses all ports itself must not keep what needs no masquerading from
// being served: then it is a warning.
func choosePorts(from PortRange, log *slog.Logger) ([]uint16, error) {
	local, reserved, err := localPorts()
	if err != nil {
		return nil, err
	}
	ports, err := masqueradePorts(from, local, reserved)
	if err != nil && from == DefaultMasqueradePorts {
		log.Warn("masquerading is short of ports", "ports", len(ports), "error", err)
		return ports, nil
	}
	return ports, err
}

// supportsMasquerade says whether there is a port for a service that asks for
// masquerading.
func supportsMasquerade(svc *lb.Service, ports []uint16) error {
	if svc.Masquerade() != lb.MasqueradeNever && len(ports) == 0 {
		return fmt.Errorf("service %s: masquerade: the kernel has all ports for its own connections: narrow net.ipv4.ip_local_port_range and start waggle again", svc.ID)
	}
	return nil
}

// ParsePortRange reads "1024-65535" or "8080".
func ParsePortRange(text string) (PortRange, error) {
	first, last, ok := strings.Cut(text, "-")
	if !ok {
		last = first
	}
	a, err := strconv.ParseUint(first, 10, 16)
	b, err2 := strconv.ParseUint(last, 10, 16)
	if err != nil || err2 != nil || a > b {
		return PortRange{}, fmt.Errorf("port range %q: write FIRST-LAST, such as 1024-65535", text)
	}
	return PortRange{uint16(a), uint16(b)}, nil
}

// localPorts reads the port ranges that the kernel keeps for others, of the
// calling thread's network namespace.
func localPorts() (local, reserved string, err error) {
	a, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	b, err2 := os.ReadFile("/proc/sys/net/ipv4/ip_local_reserved_ports")
	if err := errors.Join(err, err2); err != nil {
		return "", "", fmt.Errorf("read the kernel's port ranges: %w", err)
	}
	return string(a), string(b), nil
}

// deviceTable says what programs must know of each device. Its packets are
// masqueraded with an address of its own, else that of the default route, else
// any. A VIP is the last choice: it may move to another machine.
func deviceTable(s nlx.State, xdp map[int]loader.XDP, podDevices []string, isVIP func(netip.Addr) bool) map[uint32]devices.Device {
	rest := slices.Clone(s.Uplinks)
	macs, names := make(map[int][6]byte), make(map[int]string)
	for _, l := range s.Links {
		rest = append(rest, l.Sources...)
		names[l.Index] = l.Name
		if l.Kind == "bridge" {
			macs[l.Index] = l.MAC
		}
	}
	out := make(map[uint32]devices.Device, len(s.Links))
	for _, l := range s.Links {
		choices := slices.Concat(l.Sources, rest)
		x := xdp[l.Index]
		dev := devices.Device{
			Addr4:  choose(choices, lb.IPv4, isVIP),
			Addr6:  choose(choices, lb.IPv6, isVIP),
			Bridge: l.Kind == "bridge", PortOf: macs[l.Master], Pod: sendsForPods(l, names, podDevices),
			Generic: x.Mode == loader.XDPGeneric, Native: x.Mode == loader.XDPNative && x.Sends, Pieces: x.Pieces,
		}
		if x.Mode == loader.XDPNative || dev.Generic {
			dev.XDP = l.MAC
		}
		out[uint32(l.Index)] = dev
	}
	return out
}

func choose(addrs []netip.Addr, family lb.Family, isVIP func(netip.Addr) bool) netip.Addr {
	var vip netip.Addr
	for _, a := range addrs {
		switch {
		case lb.FamilyOf(a) != family:
		case !isVIP(a):
			return a
		case !vip.IsValid():
			vip = a
		}
	}
	return vip
}

// followDevices tells the programs what the devices are, and with which
// addresses they masquerade.
func followDevices(s *state, now nlx.State, xdp map[int]loader.XDP) error {
	table := deviceTable(now, xdp, s.node.PodDevices, func(a netip.Addr) bool { return s.marks[a] > 0 })
	for _, dev := range table {
		s.usePeer(dev.Addr4)
		s.usePeer(dev.Addr6)
	}
	return errors.Join(s.t.devices.Sync(table), s.followSource(now))
}

// followSource tells the programs with which addresses this machine asks others: those
// of its default routes, else any that others can answer.
func (s *state) followSource(now nlx.State) error {
	choices := slices.Clone(now.Uplinks)
	for _, l := range now.Links {
		choices = append(choices, l.Sources...)
	}
	isVIP := func(a netip.Addr) bool { return s.marks[a] > 0 }
	var to struct{ V4, V6 [16]byte }
	for family, addr := range map[lb.Family]*[16]byte{lb.IPv4: &to.V4, lb.IPv6: &to.V6} {
		if a := choose(choices, family, isVIP); a.IsValid() {
			*addr = a.As16()
		}
	}
	if err := s.t.hostSource.Set(to); err != nil {
		return fmt.Errorf("tell the programs this machine's own addresses: %w", err)
	}
	return nil
}
