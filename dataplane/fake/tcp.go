// SPDX-License-Identifier: Apache-2.0

package fake

import "time"

// Flag is a set of TCP flags, numbered as in the header (RFC 9293 section 3.1).
type Flag uint8

// The flags that decide about a flow.
const (
	FIN Flag = 1 << 0
	SYN Flag = 1 << 1
	RST Flag = 1 << 2
	ACK Flag = 1 << 4
)

// state is the state of a flow. The TCP states are those of IPVS's NAT table,
// in its order; UDP has one.
type state uint8

const (
	none state = iota
	established
	synSent
	synRecv
	finWait
	timeWait
	closed
	closeWait
	lastAck
	listen
	synAck
	udp
)

// active says whether IPVS counts a flow of this state in ActiveConn.
func (s state) active() bool {
	return s == established || s == synSent || s == synRecv || s == synAck
}

// timeout is the time without a packet after which a flow of this state ends:
// the defaults of IPVS (net/netfilter/ipvs/ip_vs_proto_tcp.c, _udp.c).
func (s state) timeout() time.Duration {
	return [...]time.Duration{
		none:        2 * time.Second,
		established: 15 * time.Minute,
		synSent:     2 * time.Minute,
		synRecv:     time.Minute,
		finWait:     2 * time.Minute,
		timeWait:    2 * time.Minute,
		closed:      10 * time.Second,
		closeWait:   time.Minute,
		lastAck:     30 * time.Second,
		listen:      2 * time.Minute,
		synAck:      2 * time.Minute,
		udp:         5 * time.Minute,
	}[s]
}

// tcpNext returns the state that follows s when a segment with these flags
// passes, from the client (reply false) or the backend. The strongest flag
// decides: RST, SYN, FIN, ACK; a segment with none of them closes. The columns
// are the states in their order, as IPVS behaves on Linux 6.1 and 6.12.
func tcpNext(s state, flags Flag, reply bool) state {
	const (
		no = none
		es = established
		ss = synSent
		sr = synRecv
		fw = finWait
		tw = timeWait
		cl = closed
		cw = closeWait
		la = lastAck
		li = listen
		sa = synAck
	)
	table := [2][4][11]state{
		{ //     NO  ES  SS  SR  FW  TW  CL  CW  LA  LI  SA
			0: {cl, cl, cl, sr, cl, cl, cl, cl, la, li, sr}, // RST
			1: {sr, es, es, sr, sr, sr, sr, sr, sr, sr, sr}, // SYN
			2: {cl, cw, ss, tw, tw, tw, cl, cw, la, li, tw}, // FIN
			3: {es, es, ss, es, fw, tw, cl, cw, cl, li, es}, // ACK
		},
		{ //     NO  ES  SS  SR  FW  TW  CL  CW  LA  LI  SA
			0: {cl, cl, ss, cl, cl, tw, cl, cl, cl, cl, cl},
			1: {ss, es, ss, sr, ss, ss, ss, ss, ss, li, sr},
			2: {tw, fw, ss, tw, fw, tw, cl, tw, la, li, tw},
			3: {es, es, ss, es, fw, tw, cl, cw, la, es, es},
		},
	}
	rows := &table[0]
	if reply {
		rows = &table[1]
	}
	for i, f := range [...]Flag{RST, SYN, FIN, ACK} {
		if flags&f != 0 {
			return rows[i][s]
		}
	}
	return closed
}
