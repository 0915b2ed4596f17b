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
	DROP_REPLY_TAKEN,  /* this client port is in use at this backend, and so are others: refused
			    */
	DROP_FLOWS_FULL,   /* no room for a flow */
	DROP_FRAGMENT,	   /* a fragment without its first, too long or too many to be kept */
	DROP_EXTENSION,	   /* an IPv6 extension header that cannot be followed, to a VIP */
	DROP_PROTOCOL,	   /* a protocol without ports that are known here, to a VIP */
	DROP_MALFORMED,	   /* headers cut off or impossible */
	DROP_RATE_LIMITED, /* refused in silence: too many answers this second */
	DROP_REWRITE,	   /* the kernel refused to change the packet */
	DROP_BUSY, /* another CPU is replacing this flow's entry: the next packet finds it done */
	DROP_NO_PORT,	 /* masquerade: no port is free towards this backend */
	DROP_NO_ADDRESS, /* masquerade: the device has no address that fits */
	DROP_REDIRECT,	 /* an ICMP redirect of ours that would name the backend to the client */
	DROP_MAX,
};
