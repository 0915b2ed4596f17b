//go:build ignore

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * waggle's kernel side, one translation unit: headers by concern, and below them the entry points,
 * which only map verdicts to what their hook returns.
 */
#include <stdbool.h>
#include <stddef.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#include "types.h"
#include "config.h"
#include "drop.h"
#include "maps.h"
#include "sockmaps.h"
#include "scratch.h"
#include "bits.h"
#include "clock.h"
#include "wide.h"
#include "parse.h"
#include "run.h"
#include "ids.h"
#include "hash.h"
#include "select.h"
#include "tcp.h"
#include "load.h"
#include "word.h"
#include "next.h"
#include "flow.h"
#include "keys.h"
#include "end.h"
#include "count.h"
#include "halfopen.h"
#include "grow.h"
#include "insert.h"
#include "verdict.h"
#include "nat.h"
#include "fib.h"
#include "fragment.h"
#include "masq.h"
#include "affinity.h"
#include "forward.h"
#include "behind.h"
#include "ranges.h"
#include "direct.h"
#include "quoted.h"
#include "icmp.h"
#include "refuse.h"
#include "frontend.h"
#include "client.h"
#include "fate.h"
#include "onward.h"
#include "path.h"
#include "way.h"
#include "xdp.h"
#include "sweep.h"
#include "move.h"
#include "sockaddr.h"
#include "sockets.h"
#include "datagrams.h"
#include "bind.h"
#include "walk.h"
#include "sockhooks.h"

char _license[] SEC("license") = "Dual BSD/GPL";

/* bpf2go generates the types that something refers to. */
const enum limits *anchor_limits __attribute__((unused));
const enum position *anchor_position __attribute__((unused));
const enum flow_state *anchor_flow_state __attribute__((unused));
const enum flow_flags *anchor_flow_flags __attribute__((unused));
const enum growth_phase *anchor_growth_phase __attribute__((unused));
const enum rule *anchor_rule __attribute__((unused));
const enum rule_flags *anchor_rule_flags __attribute__((unused));
const enum service_options *anchor_service_options __attribute__((unused));
const enum backend_state *anchor_backend_state __attribute__((unused));
const enum drop_reason *anchor_drop_reason __attribute__((unused));
const enum vip_flags *anchor_vip_flags __attribute__((unused));
const enum device_flags *anchor_device_flags __attribute__((unused));
const enum node_addr_flags *anchor_node_addr_flags __attribute__((unused));
const enum socket_flags *anchor_socket_flags __attribute__((unused));
const struct bind_event *anchor_bind_event __attribute__((unused));
const enum pools *anchor_pools __attribute__((unused));
const struct walked_socket *anchor_walked_socket __attribute__((unused));

/* Answers a refused packet through the device it came from. */
static __noinline int answer(struct __sk_buff *skb, enum verdict v, __u32 l3)
{
	struct packet p = {};
	enum parsed got;
	bool made;

	if (!parse_addrs(skb, &p, l3))
		return TCX_DROP;
	got = parse_ports(skb, &p);
	if (got == PARSED_LATER || !may_be_host(p.key.saddr, p.v4)) /* RFC 1122 section 3.2.2 */
		return TCX_DROP;
	if (got != PARSED_OK || !may_answer()) {
		count_drop(DROP_RATE_LIMITED);
		return TCX_DROP;
	}
	made = v == VERDICT_RST ? make_rst(skb, &p) : make_unreachable(skb, &p);
	if (!made || (l3 && !turn_ethernet(skb))) {
		count_drop(DROP_REWRITE);
		return TCX_DROP;
	}
	return bpf_redirect(skb->ifindex, 0);
}

static __always_inline int tcx(struct __sk_buff *skb, enum verdict v, __u32 l3)
{
	if (v == VERDICT_PASS)
		return TCX_NEXT;
	if (v == VERDICT_DROP)
		return TCX_DROP;
	if (v == VERDICT_ONWARD)
		return send_onward(skb, l3);
	return answer(skb, v, l3);
}

SEC("tcx/ingress")
int tc_ingress(struct __sk_buff *skb)
{
	return tcx(skb, ingress(skb, ETH_HLEN), ETH_HLEN);
}

SEC("tcx/egress")
int tc_egress(struct __sk_buff *skb)
{
	return tcx(skb, egress(skb, ETH_HLEN), ETH_HLEN);
}

/* Devices without an Ethernet header: wireguard, tun, ipip. */
SEC("tcx/ingress")
int tc_ingress_l3(struct __sk_buff *skb)
{
	return tcx(skb, ingress(skb, 0), 0);
}

SEC("tcx/egress")
int tc_egress_l3(struct __sk_buff *skb)
{
	return tcx(skb, egress(skb, 0), 0);
}

/* Frames in several pieces, too: what is looked at is in the first. */
SEC("xdp.frags")
int xdp_ingress(struct xdp_md *ctx)
{
	return xdp(ctx);
}
