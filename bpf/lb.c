//go:build ignore

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * waggle's kernel side, one translation unit. Headers by concern; the entry points are at the end
 * and only map verdicts to what their hook returns.
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

#include "types.h"
#include "drop.h"
#include "maps.h"
#include "bits.h"
#include "clock.h"
#include "parse.h"

char _license[] SEC("license") = "Dual BSD/GPL";

/* bpf2go generates enums that something refers to. */
const enum limits *anchor_limits __attribute__((unused));
const enum position *anchor_position __attribute__((unused));
const enum flow_state *anchor_flow_state __attribute__((unused));
const enum flow_flags *anchor_flow_flags __attribute__((unused));
const enum rule *anchor_rule __attribute__((unused));
const enum rule_flags *anchor_rule_flags __attribute__((unused));
const enum backend_state *anchor_backend_state __attribute__((unused));
const enum drop_reason *anchor_drop_reason __attribute__((unused));
const enum node_addr_flags *anchor_node_addr_flags __attribute__((unused));

#define TCX_NEXT -1

SEC("tcx/ingress")
int tc_ingress(struct __sk_buff *skb)
{
	struct packet p = {};

	if (parse_addrs(skb, &p, ETH_HLEN))
		parse_ports(skb, &p);
	return TCX_NEXT;
}
SEC("tcx/egress")
int tc_egress(struct __sk_buff *skb)
{
	(void)skb;
	return TCX_NEXT;
}
SEC("tcx/ingress")
int tc_ingress_l3(struct __sk_buff *skb)
{
	(void)skb;
	return TCX_NEXT;
}
SEC("tcx/egress")
int tc_egress_l3(struct __sk_buff *skb)
{
	(void)skb;
	return TCX_NEXT;
}
#include "sweep.h"
