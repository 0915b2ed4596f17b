/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Where a packet goes from here, if not by the stack. XDP forwards packets of flows that are its
 * own (FLOW_XDP) without it; what XDP cannot do with one of these, ingress does, so that connection
 * tracking meets all packets of a flow or none. Ingress makes all flows, and says whose they are.
 */
#pragma once

/* Whether XDP is on any device, or was: else all of this is dead code that the verifier removes. */
const volatile bool with_xdp = false;

/* Of linux/socket.h. */
#define AF_INET	 2
#define AF_INET6 10

#define FLOW_INFO 0x0fffffff /* of an IPv6 header's first word: traffic class and label */

/* How a packet of a flow with these flags goes on from ingress. */
static __always_inline enum verdict passing(__u8 flags)
{
	return with_xdp && flags & FLOW_XDP ? VERDICT_ONWARD : VERDICT_PASS;
}

/* What a routing rule may ask of a header beside its ends: the class, and the label of IPv6. */
static __always_inline __u32 class_of(const void *ip, bool v4)
{
	if (v4)
		return ((const struct iphdr *)ip)->tos;
	return *(const __be32 *)ip & bpf_htonl(FLOW_INFO);
}

/*
 * Makes q ask for the way of a packet that has these ends between its two rewrites, as the stack
 * would see it. The header, which is whole, says of which class it is.
 */
static __always_inline void make_query(struct bpf_fib_lookup *q, const struct flow_key *k,
				       const void *ip, bool v4, __u32 ifindex)
{
	__builtin_memset(q, 0, sizeof(*q));
	q->ifindex = ifindex;
	q->l4_protocol = k->proto;
	q->sport = bpf_htons(k->sport);
	q->dport = bpf_htons(k->dport);
	if (v4) {
		q->family = AF_INET;
		q->tos = class_of(ip, v4);
		q->ipv4_src = ((const __u32 *)k->saddr)[3];
		q->ipv4_dst = ((const __u32 *)k->daddr)[3];
	} else {
		q->family = AF_INET6;
		q->flowinfo = class_of(ip, v4);
		copy_addr((__u8 *)q->ipv6_src, k->saddr);
		copy_addr((__u8 *)q->ipv6_dst, k->daddr);
	}
}

/* Whether a lookup's answer is a way to another machine, though its address may not be known. */
static __always_inline bool leads_off(long answer)
{
	return answer == BPF_FIB_LKUP_RET_SUCCESS || answer == BPF_FIB_LKUP_RET_NO_NEIGH;
}

static __always_inline struct device *device_at(__u32 ifindex)
{
	return bpf_map_lookup_elem(&devices, &ifindex);
}

/* Whether XDP sends from one device to another, both ways. */
static __always_inline bool are_joined(const struct device *a, const struct device *b)
{
	return a && b && a->flags & b->flags & DEVICE_XDP &&
	       (a == b || a->flags & b->flags & (DEVICE_NATIVE | DEVICE_GENERIC));
}

/*
 * Whether XDP is to have a new flow with this key to a backend: both directions must be able to go
 * by it. So the packet must have come by the device that leads to the client, which is also what a
 * strict rp_filter would ask for.
 */
static __noinline bool is_for_xdp(struct __sk_buff *skb, const struct packet *p, struct work *w)
{
	__u32 from = skb->ifindex;
	struct bpf_fib_lookup q;
	struct iphdr *ip;

	if (!p || !w || p->part != WHOLE)
		return false;
	ip = header(skb, p->l3);
	if ((void *)(ip + 1) > data_end(skb))
		return false;
	reply_key(&w->reply, &p->key, w->flow.addr, w->flow.port);
	answer_key(&w->key, &w->reply, POSITION_E1);
	make_query(&q, &w->key, ip, p->v4, from);
	key_at(&w->key, &p->key, POSITION_E1); /* as it was */
	if (!leads_off(bpf_fib_lookup(skb, &q, sizeof(q), 0)) ||
	    !are_joined(device_at(from), device_at(q.ifindex)))
		return false;
	ip = header(skb, p->l3);
	if ((void *)(ip + 1) > data_end(skb))
		return false;
	make_query(&q, &w->reply, ip, p->v4, q.ifindex);
	return leads_off(bpf_fib_lookup(skb, &q, sizeof(q), 0)) && q.ifindex == from;
}
