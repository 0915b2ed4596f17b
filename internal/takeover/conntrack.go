// SPDX-License-Identifier: Apache-2.0

package takeover

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/lb"
)

// Of linux/netfilter/nfnetlink_conntrack.h and nf_conntrack_common.h, what the
// libraries lack.
const (
	ctaID         = 12
	ctaZone       = 18
	ctaStatusMask = 26

	msgGet    = 1
	msgDelete = 2

	statusDstNAT = 1 << 5
)

// end is a tuple of connection tracking: addresses and ports of one direction.
type end struct{ src, dst netip.AddrPort }

// entry is one connection that is tracked.
type entry struct {
	protocol    lb.Protocol
	orig, reply end
	status      uint32
	state       uint8 // of TCP or SCTP, as connection tracking numbers them
	zone        uint16
	id, tuple   []byte // as the kernel wrote them, of orig
}

// isTranslated reports whether its destination was changed.
func (e *entry) isTranslated() bool { return e.reply.src != e.orig.dst }

// isMasqueraded reports whether its source was.
func (e *entry) isMasqueraded() bool { return e.reply.dst != e.orig.src }

// isLive reports whether a connection is there, or begins. What has closed, and all
// of UDP, is not.
func (e *entry) isLive() bool {
	switch e.protocol {
	case lb.TCP: // enum tcp_conntrack: SYN_SENT ... LAST_ACK, SYN_SENT2
		return e.state >= 1 && e.state <= 6 || e.state == 9
	case lb.SCTP: // enum sctp_conntrack: COOKIE_WAIT ... SHUTDOWN_ACK_SENT
		return e.state >= 2 && e.state <= 7
	}
	return false
}

// hasModule reports whether the kernel has one of its parts that have parameters,
// loaded or built in: to ask it for something would load it.
func hasModule(name string) bool {
	_, err := os.Stat("/sys/module/" + name)
	return err == nil
}

var families = map[uint8]string{unix.AF_INET: "IPv4", unix.AF_INET6: "IPv6"}

// eachEntry yields what is tracked of a family in the calling thread's network
// namespace; with translated only that whose destination was changed by rules,
// which the kernel leaves out from Linux 5.16 on. What yield is given is good until
// it returns. Entries that come and go meanwhile may be missed.
func eachEntry(family uint8, translated bool, yield func(*entry)) error {
	if !hasModule("nf_conntrack") {
		return nil
	}
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_CTNETLINK<<8|msgGet, unix.NLM_F_DUMP)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: family, Version: nl.NFNETLINK_V0})
	if translated {
		for _, t := range []int{nl.CTA_STATUS, ctaStatusMask} {
			req.AddData(nl.NewRtAttr(t, binary.BigEndian.AppendUint32(nil, statusDstNAT)))
		}
	}
	var bad error
	err := req.ExecuteIter(unix.NETLINK_NETFILTER, 0, func(msg []byte) bool {
		var e entry
		if bad = e.parse(msg); bad == nil && (!translated || e.status&statusDstNAT != 0) {
			yield(&e)
		}
		return bad == nil
	})
	if errors.Is(err, netlink.ErrDumpInterrupted) {
		err = nil // the table changes all the time
	}
	if err = errors.Join(err, bad); err != nil {
		return fmt.Errorf("list tracked connections of %s: %w", families[family], err)
	}
	return nil
}

// errShort: the kernel says less than it always did.
var errShort = errors.New("a message of connection tracking is cut off")

// attributes calls f with each attribute of b.
func attributes(b []byte, f func(kind uint16, value []byte) error) error {
	attrs, err := nl.ParseRouteAttr(b)
	if err != nil {
		return errShort
	}
	for _, a := range attrs {
		if err := f(a.Attr.Type&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), a.Value); err != nil {
			return err
		}
	}
	return nil
}

func (e *entry) parse(msg []byte) error {
	if len(msg) < nl.SizeofNfgenmsg {
		return errShort
	}
	return attributes(msg[nl.SizeofNfgenmsg:], func(kind uint16, v []byte) (err error) {
		switch kind {
		case nl.CTA_TUPLE_ORIG:
			e.tuple = v
			e.orig, err = e.parseTuple(v)
		case nl.CTA_TUPLE_REPLY:
			e.reply, err = e.parseTuple(v)
		case nl.CTA_STATUS:
			e.status = binary.BigEndian.Uint32(v)
		case nl.CTA_PROTOINFO: // one of TCP or SCTP, whose first attribute is the state
			err = attributes(v, func(_ uint16, v []byte) error {
				return attributes(v, func(kind uint16, v []byte) error {
					if kind == nl.CTA_PROTOINFO_TCP_STATE && len(v) == 1 {
						e.state = v[0]
					}
					return nil
				})
			})
		case ctaZone:
			e.zone = binary.BigEndian.Uint16(v)
		case ctaID:
			e.id = v
		}
		return err
	})
}

func (e *entry) parseTuple(b []byte) (t end, err error) {
	var src, dst netip.Addr
	var sport, dport uint16
	err = attributes(b, func(kind uint16, v []byte) error {
		return attributes(v, func(part uint16, v []byte) error {
			switch {
			case kind == nl.CTA_TUPLE_IP && (part == nl.CTA_IP_V4_SRC || part == nl.CTA_IP_V6_SRC):
				src, _ = netip.AddrFromSlice(v)
			case kind == nl.CTA_TUPLE_IP && (part == nl.CTA_IP_V4_DST || part == nl.CTA_IP_V6_DST):
				dst, _ = netip.AddrFromSlice(v)
			case kind == nl.CTA_TUPLE_PROTO && part == nl.CTA_PROTO_NUM && len(v) == 1:
				e.protocol = lb.Protocol(v[0])
			case kind == nl.CTA_TUPLE_PROTO && part == nl.CTA_PROTO_SRC_PORT && len(v) == 2:
				sport = binary.BigEndian.Uint16(v)
			case kind == nl.CTA_TUPLE_PROTO && part == nl.CTA_PROTO_DST_PORT && len(v) == 2:
				dport = binary.BigEndian.Uint16(v)
			}
			return nil
		})
	})
	return end{netip.AddrPortFrom(src, sport), netip.AddrPortFrom(dst, dport)}, err
}

// forget ends the tracking of those entries of a family that match. One that goes by
// itself meanwhile is fine.
func forget(family uint8, match func(*entry) bool) error {
	type victim struct{ tuple, id []byte }
	var victims []victim
	err := eachEntry(family, true, func(e *entry) {
		if e.zone == 0 && match(e) {
			victims = append(victims, victim{append([]byte(nil), e.tuple...), append([]byte(nil), e.id...)})
		}
	})
	if err != nil {
		return err
	}
	for _, v := range victims {
		req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_CTNETLINK<<8|msgDelete, unix.NLM_F_ACK)
		req.AddData(&nl.Nfgenmsg{NfgenFamily: family, Version: nl.NFNETLINK_V0})
		req.AddData(nl.NewRtAttr(unix.NLA_F_NESTED|nl.CTA_TUPLE_ORIG, v.tuple))
		req.AddData(nl.NewRtAttr(ctaID, v.id))
		if _, err := req.Execute(unix.NETLINK_NETFILTER, 0); err != nil && !errors.Is(err, syscall.ENOENT) {
			return fmt.Errorf("end the tracking of a connection of %s: %w", families[family], err)
		}
	}
	return nil
}
