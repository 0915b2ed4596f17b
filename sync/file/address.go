// SPDX-License-Identifier: Apache-2.0

package file

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/waggle-lb/waggle/lb"
)

// parseAddrPort reads "192.0.2.1:80" or "[2001:db8::1]:80" as an address that
// packets can be sent to from outside. role is "VIP" or "backend". Whether
// port 0 has a place there depends on the service (checkPorts).
func parseAddrPort(s, role string) (netip.AddrPort, *problem) {
	ap, err := netip.ParseAddrPort(s)
	if err != nil {
		return ap, badAddrPort(s)
	}
	addr := ap.Addr()
	if addr.Is4In6() {
		return ap, &problem{"v4-mapped address " + addr.String(), "write " + netip.AddrPortFrom(addr.Unmap(), ap.Port()).String()}
	}
	if addr.Zone() != "" {
		return ap, &problem{"address " + addr.String() + " has a zone", "write an address that is not link-local"}
	}
	if kind := unusable(addr); kind != "" {
		return ap, &problem{fmt.Sprintf("%s address %s cannot be a %s", kind, addr, role), "write a unicast address of this network"}
	}
	return ap, nil
}

// unusable names the kind of an address that no packet of another machine can
// be sent to, or only with a device; "" if there is nothing against it.
func unusable(a netip.Addr) string {
	switch {
	case a.IsUnspecified():
		return "unspecified"
	case a.IsLoopback():
		return "loopback"
	case a.IsMulticast():
		return "multicast"
	case a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return "broadcast"
	case a.Is6() && a.IsLinkLocalUnicast():
		return "link-local"
	}
	return ""
}

// badAddrPort finds out what keeps s from being an address and a port.
func badAddrPort(s string) *problem {
	what := fmt.Sprintf("bad address %q", s)
	if a, err := netip.ParseAddr(s); err == nil {
		if a.Is4() {
			return &problem{what + " has no port", "write one, such as " + s + ":80"}
		}
		return &problem{what + " has no port or no brackets", "write both, such as [2001:db8::1]:80"}
	}
	if strings.HasSuffix(s, "]") {
		return &problem{what + " has no port", "write one, such as " + s + ":80"}
	}
	host, port, ok := cutLast(s, ':')
	if !ok {
		return &problem{what, "write ADDRESS:PORT, such as 192.0.2.1:80 or [2001:db8::1]:80"}
	}
	bare := strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	a, err := netip.ParseAddr(bare)
	if err != nil {
		return &problem{what, "write an IP address and a port, such as 192.0.2.1:80 or [2001:db8::1]:80; names are not looked up"}
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return &problem{what + fmt.Sprintf(": port %q is not a number from 1 to 65535", port), "write the number"}
	}
	if a.Is4() {
		return &problem{what + ": IPv4 has no brackets", "write " + bare + ":" + port}
	}
	return &problem{what + ": IPv6 needs brackets", "write [" + bare + "]:" + port}
}

// cutLast cuts s around the last sep.
func cutLast(s string, sep byte) (before, after string, found bool) {
	i := strings.LastIndexByte(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}

// parseFrontend reads "203.0.113.10:80/TCP".
func parseFrontend(s string) (lb.Frontend, *problem) {
	addr, proto, ok := cutLast(s, '/')
	if !ok {
		return lb.Frontend{}, &problem{fmt.Sprintf("no protocol in %q", s), "write " + s + "/TCP or " + s + "/UDP"}
	}
	p, err := lb.ParseProtocol(proto)
	if err != nil {
		return lb.Frontend{}, &problem{fmt.Sprintf("unknown protocol %q", proto), "write TCP, UDP or SCTP"}
	}
	ap, bad := parseAddrPort(addr, "VIP")
	return lb.Frontend{Addr: ap, Protocol: p}, bad
}
