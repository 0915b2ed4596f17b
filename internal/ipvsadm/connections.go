// SPDX-License-Identifier: Apache-2.0

package ipvsadm

import (
	"bufio"
	"fmt"
	"io"
	"iter"
	"net/netip"
	"time"

	"github.com/waggle-lb/waggle/lb"
)

// Connection is an entry of IPVS's table, or what keeps a client at a server:
// its source then has port 0 and the bits that count.
type Connection struct {
	Protocol lb.Protocol
	// Expires is how long the entry lives if no packet comes.
	Expires time.Duration
	// State is IPVS's name: "ESTABLISHED", "UDP", "ASSURED".
	State                        string
	Source, Virtual, Destination netip.AddrPort
}

// ListConnections writes connections as ipvsadm -L -n -c does, in their order.
// persistence engines, which only then have a column, are never there
// (--persistent-conn).
func ListConnections(w io.Writer, conns iter.Seq[Connection], engines bool) error {
	out := bufio.NewWriter(w)
	head := "pro expire state       source             virtual            destination"
	if engines {
		head += "        pe name          pe_data"
	}
	fmt.Fprintf(out, "IPVS connection entries\n%s\n", head)
	for c := range conns {
		seconds := int64(c.Expires / time.Second)
		expire := fmt.Sprintf("%02d:%02d", seconds/60, seconds%60)
		if _, err := fmt.Fprintf(out, "%-3s %-6s %-11s %-18s %-18s %s\n",
			c.Protocol, expire, c.State, c.Source, c.Virtual, c.Destination); err != nil {
			return fmt.Errorf("write connections: %w", err)
		}
	}
	if err := out.Flush(); err != nil {
		return fmt.Errorf("write connections: %w", err)
	}
	return nil
}
