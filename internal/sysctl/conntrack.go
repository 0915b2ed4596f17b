// SPDX-License-Identifier: Apache-2.0

package sysctl

import "time"

// Conntrack is what kube-proxy sets of netfilter's connection tracking. Zero values
// leave what is there.
type Conntrack struct {
	// MaxPerCore is how many connections may be tracked for each CPU, Min the least
	// that it comes to; 0 of the first leaves the limit, whatever Min is.
	MaxPerCore, Min                        int
	Established, CloseWait, UDP, UDPStream time.Duration // whole seconds count
	Liberal                                bool          // take segments out of the window
}

// maxConntrack is the most that MaxPerCore comes to, as in kube-proxy: 16M
// connections on 512 CPUs would be a table that no cache holds.
const maxConntrack = 1 << 20

// limit is nf_conntrack_max for a machine; 0: as it is.
func (c Conntrack) limit(cpus int) int {
	switch scaled := c.MaxPerCore * cpus; {
	case c.MaxPerCore == 0:
		return 0
	case scaled > maxConntrack:
		return maxConntrack
	default:
		return max(scaled, c.Min)
	}
}

// Settings are what it comes to on a machine with so many CPUs. The limit is never
// lowered, and the hash table that goes with it has a place for each four connections.
func (c Conntrack) Settings(cpus int) (out []Setting) {
	const dir = "net/netfilter/nf_conntrack_"
	if most := c.limit(cpus); most > 0 {
		out = append(out, Setting{Path: root + dir + "max", Value: most, AtLeast: true},
			Setting{Path: "/sys/module/nf_conntrack/parameters/hashsize", Value: most / 4, AtLeast: true})
	}
	for _, t := range []struct {
		name  string
		value time.Duration
	}{
		{"tcp_timeout_established", c.Established},
		{"tcp_timeout_close_wait", c.CloseWait},
		{"udp_timeout", c.UDP},
		{"udp_timeout_stream", c.UDPStream},
	} {
		if t.value > 0 {
			out = append(out, Sysctl(dir+t.name, int(t.value/time.Second)))
		}
	}
	if c.Liberal {
		out = append(out, Sysctl(dir+"tcp_be_liberal", 1))
	}
	return out
}
