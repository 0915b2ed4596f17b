/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Packets of flows that are XDP's, which XDP left to the stack: a neighbour that is not known, a
 * fragment, an ICMP error, a checksum that is not finished. Ingress sends them on by the FIB, past
 * connection tracking, and egress of that device makes the other rewrite, as of any packet. Only
 * what the FIB has no way for, or what is too long, or at its last hop, is the stack's: it drops
 * and answers it before anybody filters.
 */
#pragma once

/* Takes a hop. False: it was the last, or the packet is none. */
static __always_inline bool take_hop(struct __sk_buff *skb, const struct packet *p)
{
	if (p->v4) {
		struct iphdr *ip = header(skb, p->l3);

		if ((void *)(ip + 1) > data_end(skb) || ip->ttl <= 1)
			return false;
		ip->ttl--;
		ip->check = fold_csum((__u64)ip->check + bpf_htons(0x100));
	} else {
		struct ipv6hdr *ip6 = header(skb, p->l3);

		if ((void *)(ip6 + 1) > data_end(skb) || ip6->hop_limit <= 1)
			return false;
		ip6->hop_limit--;
		bpf_csum_update(skb, (__u16)~bpf_htons(1)); /* the device's sum */
	}
	return true;
}

/* Bytes of the IP packet, or of each that an aggregate of segments becomes. */
static __always_inline __u32 longest(struct __sk_buff *skb, const struct packet *p)
{
	__u32 len = p->l4 - p->l3 + skb->gso_size;
	__u8 *tcp = header(skb, p->l4);

	if (!skb->gso_size)
		return p->bytes;
	if (p->key.proto != IPPROTO_TCP)
		return len + sizeof(struct udphdr);
	if ((void *)tcp + sizeof(struct tcphdr) > data_end(skb))
		return p->bytes;
	return len + (tcp[12] >> 4) * 4;
}

/* Sends a packet on by the FIB: to a backend, or from one to a client. */
static __noinline int send_onward(struct __sk_buff *skb, __u32 l3)
{
	struct bpf_redir_neigh to = {};
	struct bpf_fib_lookup q;
	struct packet p = {};
	struct iphdr *ip;
	__u32 len;

	if (!parse_addrs(skb, &p, l3))
		return TCX_NEXT;
	if (parse_ports(skb, &p) == PARSED_OK)
		len = longest(skb, &p);
	else
		len = p.bytes;
	ip = header(skb, p.l3);
	if ((void *)(ip + 1) > data_end(skb) || len > 0xffff)
		return TCX_NEXT;
	make_query(&q, &p.key, ip, p.v4, skb->ifindex);
	q.tot_len = len;
	if (!leads_off(bpf_fib_lookup(skb, &q, sizeof(q), 0)) || !take_hop(skb, &p))
		return TCX_NEXT;
	to.nh_family = q.family; /* of the gateway, if there is one */
	copy_addr((__u8 *)to.ipv6_nh, q.ipv6_dst);
	return bpf_redirect_neigh(q.ifindex, &to, sizeof(to), 0);
}

/* Whether a packet is a backend's, of a flow that is XDP's: egress changes its source. */
static __noinline bool returns(const struct packet *p)
{
	struct flow_key k;
	struct flow *r;

	if (!p || !backend_is_marked(&backend_bits, p->key.saddr, p->key.sport, p->key.proto))
		return false;
	key_at(&k, &p->key, POSITION_E4);
	k.pad = 0;
	r = find(&k);
	return r && r->flags & FLOW_XDP;
}

static __always_inline bool is_icmp(struct __sk_buff *skb, const struct packet *p)
{
	__u8 *proto = header(skb, p->l3 + (p->v4 ? offsetof(struct iphdr, protocol)
						 : offsetof(struct ipv6hdr, nexthdr)));

	if ((void *)(proto + 1) > data_end(skb))
		return false;
	return *proto == (p->v4 ? IPPROTO_ICMP : IPPROTO_ICMPV6);
}

/* An ICMP error from a backend's side, to the client of a flow: egress translates it. */
static __noinline bool is_about_returning(struct __sk_buff *skb, struct packet *p)
{
	struct packet q = {};
	struct flow_key k;
	struct flow *f;

	if (!p || icmp_kind(skb, p) != ICMP_ERROR)
		return false;
	q.l3 = p->l4 + ICMP_HEADER;
	q.bytes = p->l3 + p->bytes - q.l3;
	if (!parse_quoted(skb, &q, p->v4))
		return false;
	f = find_quoted(&k, &q, POSITION_E4);
	return f && f->flags & FLOW_XDP;
}

/* Ingress, to an address that is nobody's here. ELSEWHERE: it is no flow's that is XDP's. */
__noinline enum verdict transit(struct __sk_buff *skb, struct packet *p)
{
	bool peer;
	enum parsed got;
	enum verdict verdict;

	if (!p)
		return VERDICT_ELSEWHERE;
	peer = is_marked(&peer_bits, addr_mark(p->key.saddr));
	if (!peer && !is_icmp(skb, p))
		return VERDICT_ELSEWHERE;
	got = parse_ports(skb, p);
	if (got == PARSED_OTHER)
		return is_about_returning(skb, p) ? VERDICT_ONWARD : VERDICT_ELSEWHERE;
	if (!peer || (got != PARSED_OK && got != PARSED_LATER))
		return VERDICT_ELSEWHERE;
	if (p->part != WHOLE) {
		verdict = join(skb, p, BPF_F_INGRESS);
		if (verdict != VERDICT_PASS)
			return verdict;
	}
	return returns(p) ? VERDICT_ONWARD : VERDICT_ELSEWHERE;
}
