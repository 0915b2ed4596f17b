/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Who stands behind these programs, and still has connections of before: programs of another
 * layout, or kube-proxy's rules in the stack. What may be such a connection's is passed on to them
 * where it would be refused or dropped otherwise; all else asks nothing of this.
 */
#pragma once

/* Set while somebody does. */
volatile __u32 taking_over = 0;

#define SCTP_CHUNK 12 /* where the first one's type is; RFC 9260, section 3 */
#define SCTP_INIT  1

/* Whether a packet of no flow begins one. Datagrams go over to us at once, whoever had them. */
static __noinline bool begins_flow(struct __sk_buff *skb, const struct packet *p)
{
	__u8 chunk = 0;

	if (!p)
		return false;
	if (p->key.proto == IPPROTO_TCP)
		return is_syn(p->tcp_flags);
	if (!taking_over || p->key.proto != IPPROTO_SCTP)
		return true;
	return p->part != LATER && !bpf_skb_load_bytes(skb, p->l4 + SCTP_CHUNK, &chunk, 1) &&
	       chunk == SCTP_INIT;
}

/* The same without the packet at hand, of one to an address that nobody has any more. */
static __always_inline bool is_others(const struct packet *p)
{
	if (!taking_over || p->key.proto == IPPROTO_UDP || p->key.proto == IPPROTO_SCTP)
		return false;
	return p->key.proto != IPPROTO_TCP || !is_syn(p->tcp_flags);
}
