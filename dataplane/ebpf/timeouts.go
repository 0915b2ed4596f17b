// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"fmt"
	"math"
	"time"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/maps/info"
)

// Timeouts are how long flows live without a packet, as far as users may say:
// the three of `ipvsadm --set`. 0 is IPVS's default. Whole seconds.
type Timeouts struct {
	TCP    time.Duration // established
	TCPFin time.Duration // after the server's FIN; not TIME_WAIT
	UDP    time.Duration
}

// defaultTimeouts are those of IPVS, in seconds, by state
// (net/netfilter/ipvs/ip_vs_proto_tcp.c and ip_vs_proto_udp.c).
var defaultTimeouts = info.Timeouts{
	bpf.LBFlowStateSTATE_NONE:        2,
	bpf.LBFlowStateSTATE_ESTABLISHED: 900,
	bpf.LBFlowStateSTATE_SYN_SENT:    120,
	bpf.LBFlowStateSTATE_SYN_RECV:    60,
	bpf.LBFlowStateSTATE_FIN_WAIT:    120,
	bpf.LBFlowStateSTATE_TIME_WAIT:   120,
	bpf.LBFlowStateSTATE_CLOSE:       10,
	bpf.LBFlowStateSTATE_CLOSE_WAIT:  60,
	bpf.LBFlowStateSTATE_LAST_ACK:    30,
	bpf.LBFlowStateSTATE_LISTEN:      120,
	bpf.LBFlowStateSTATE_SYNACK:      120,
	bpf.LBFlowStateSTATE_UDP:         300,
}

// maxTimeout keeps the age of a flow, in jiffies of 32 bits, from wrapping.
const maxTimeout = 31 * 24 * time.Hour

// Check says what is wrong with them, by the names of the flags.
func (t Timeouts) Check() error {
	_, err := t.byState()
	return err
}

// byState returns the timeout of each state, in seconds.
func (t Timeouts) byState() (info.Timeouts, error) {
	out := defaultTimeouts
	for _, c := range []struct {
		name  string
		state bpf.LBFlowState
		to    time.Duration
	}{
		{"tcp", bpf.LBFlowStateSTATE_ESTABLISHED, t.TCP},
		{"tcpfin", bpf.LBFlowStateSTATE_FIN_WAIT, t.TCPFin},
		{"udp", bpf.LBFlowStateSTATE_UDP, t.UDP},
	} {
		switch {
		case c.to == 0:
		case c.to < time.Second || c.to > maxTimeout || c.to%time.Second != 0:
			return out, fmt.Errorf("--ipvs-%s-timeout %s: write whole seconds, 1s to %.0fh, or 0 for IPVS's", c.name, c.to, maxTimeout.Hours())
		default:
			out[c.state] = uint32(math.Round(c.to.Seconds()))
		}
	}
	return out, nil
}
