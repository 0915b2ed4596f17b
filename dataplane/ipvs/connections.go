// SPDX-License-Identifier: Apache-2.0

package ipvs

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/waggle-lb/waggle/lb"
)

// connectionsFile is the kernel's table of connections, of the calling thread's network
// namespace: what ipvsadm -L -n -c prints.
const connectionsFile = "/proc/thread-self/net/ip_vs_conn"

// connection is a line of it. The client's port is 0 where affinity keeps a client.
type connection struct {
	proto                lb.Protocol
	client, vip, backend netip.AddrPort
	state                string
	expires              time.Duration
}

// over are the states of connections that have ended, or never were one.
var over = []string{"NONE", "ASSURED", "TIME_WAIT", "CLOSE", "CLOSED"}

func (c *connection) isLive() bool {
	return c.proto != lb.UDP && c.client.Port() != 0 && !slices.Contains(over, c.state)
}

// eachConnection calls f with each, until that returns an error. Without IPVS there
// are none.
func eachConnection(f func(*connection) error) error {
	file, err := os.Open(connectionsFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open the connections of IPVS: %w", err)
	}
	defer file.Close()
	return readConnections(file, f)
}

func readConnections(r io.Reader, f func(*connection) error) error {
	lines := bufio.NewScanner(r)
	for first := true; lines.Scan(); first = false {
		if first { // the title
			continue
		}
		c, ok, err := parseConnection(lines.Text())
		if err != nil {
			return fmt.Errorf("read the connections of IPVS: %w", err)
		}
		if !ok {
			continue
		}
		if err := f(&c); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read the connections of IPVS: %w", err)
	}
	return nil
}

// protocols are the kernel's words; others are of virtual services of marks, which are
// nobody's here.
var protocols = map[string]lb.Protocol{"TCP": lb.TCP, "UDP": lb.UDP, "SCTP": lb.SCTP}

// parseConnection reads a line: protocol; address and port of client, VIP and server;
// state; seconds left; and words of persistence engines. ok is false for a protocol
// that is none of ours.
func parseConnection(line string) (c connection, ok bool, err error) {
	w := strings.Fields(line)
	if len(w) < 9 {
		return c, false, fmt.Errorf("line %q has %d words, not 9", line, len(w))
	}
	if c.proto, ok = protocols[w[0]]; !ok {
		return c, false, nil
	}
	for i, to := range []*netip.AddrPort{&c.client, &c.vip, &c.backend} {
		if *to, err = parseEnd(w[1+2*i], w[2+2*i]); err != nil {
			return c, false, fmt.Errorf("line %q: %w", line, err)
		}
	}
	seconds, err := strconv.ParseUint(w[8], 10, 32)
	if err != nil {
		return c, false, fmt.Errorf("line %q: %w", line, err)
	}
	c.state, c.expires = w[7], time.Duration(seconds)*time.Second
	return c, true, nil
}

// parseEnd reads an address, of IPv4 eight digits, and a port of four.
func parseEnd(addr, port string) (netip.AddrPort, error) {
	n, err := strconv.ParseUint(port, 16, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("port %q: %w", port, err)
	}
	if strings.Contains(addr, ":") {
		a, err := netip.ParseAddr(strings.Trim(addr, "[]"))
		return netip.AddrPortFrom(a, uint16(n)), err
	}
	b, err := hex.DecodeString(addr)
	a, ok := netip.AddrFromSlice(b)
	if err != nil || !ok {
		return netip.AddrPort{}, fmt.Errorf("address %q is none of IPv4 in 8 digits", addr)
	}
	return netip.AddrPortFrom(a, uint16(n)), nil
}
