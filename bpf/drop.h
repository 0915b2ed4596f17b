/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Why a packet was refused or dropped. This enum is the one list: Go takes names and numbers from
 * its BTF, docs/drops.md says what to do about each (a test compares). Add at the end only.
 */
#pragma once

enum drop_reason {
	DROP_NONE = 0,
	DROP_EMPTY_POOL,   /* no backend to pick: ICMP port unreachable */
	DROP_UNKNOWN_PORT, /* a VIP's port that no service has: ICMP port unreachable */
	DROP_NO_FLOW,	   /* TCP to a frontend, neither SYN nor of a flow: RST */
	DROP_UNTRANSLATED, /* to a frontend, found at egress: it passed no ingress hook */
	DROP_REPLY_TAKEN,  /* another VIP's flow has this client port at this backend: refused */
	DROP_FLOWS_FULL,   /* no room for a flow */
	DROP_FRAGMENT,	   /* fragments to a VIP: not yet */
	DROP_EXTENSION,	   /* IPv6 extension headers to a VIP: not yet */
	DROP_PROTOCOL,	   /* a frontend's protocol that is not translated: not yet */
	DROP_MALFORMED,	   /* headers cut off or impossible */
	DROP_RATE_LIMITED, /* refused in silence: too many answers this second */
	DROP_REWRITE,	   /* the kernel refused to change the packet */
	DROP_BUSY, /* another CPU is replacing this flow's entry: the next packet finds it done */
	DROP_MAX,
};
