/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * XDP: packets of flows that are its own (fib.h), between two other machines, with both rewrites at
 * once. What it does not know it passes, unchanged: ingress has the same answer.
 */
#pragma once

/* parse_addrs. A tagged frame is a VLAN's, and is seen on that one's device. */
static __always_inline bool frame_addrs(struct xdp_md *ctx, struct packet *p)
{
	struct ethhdr *eth = frame(ctx);
	void *ip = eth + 1, *end = frame_end(ctx);

	if (ip > end)
		return false;
	p->l3 = ETH_HLEN;
	if (eth->h_proto == bpf_htons(ETH_P_IP)) {
		if (ip + sizeof(struct iphdr) > end)
			return false;
		addrs_v4(p, ip);
		return true;
	}
	if (eth->h_proto != bpf_htons(ETH_P_IPV6) || ip + sizeof(struct ipv6hdr) > end)
		return false;
	addrs_v6(p, ip);
	return true;
}

/* parse_ports, of a whole packet without extension headers. */
static __always_inline bool frame_ports(struct xdp_md *ctx, struct packet *p)
{
	void *ip = frame_at(ctx, p->l3), *end = frame_end(ctx);
	enum parsed got;

	p->part = WHOLE;
	p->tcp_flags = 0;
	p->bytes = bpf_xdp_get_buff_len(ctx) - ETH_HLEN;
	got = p->v4 ? parse_v4(ip, end, p) : parse_v6(ip, end, p);
	return got == PARSED_OK && p->part == WHOLE && has_ports(p->key.proto) &&
	       p->l4 + ports_len(p->key.proto) <= p->l3 + p->bytes &&
	       read_ports(frame_at(ctx, p->l4), end, p);
}

/* Rewrites both ends, and takes a hop. False: the verifier's, the packet has been parsed. */
static __always_inline bool rewrite_ends(struct xdp_md *ctx, const struct packet *p,
					 const struct flow_key *to)
{
	__u64 diff = (__u64)csum_diff(p->key.saddr, to->saddr) + csum_diff(p->key.daddr, to->daddr);
	__u64 ports = (__u64)(__u16)~bpf_htons(p->key.sport) + bpf_htons(to->sport) +
		      (__u16)~bpf_htons(p->key.dport) + bpf_htons(to->dport);
	void *at = frame_at(ctx, p->l3), *end = frame_end(ctx);
	__be16 *l4 = frame_at(ctx, p->l4);
	bool udp = p->key.proto == IPPROTO_UDP;

	if (p->v4) {
		struct iphdr *ip = at;

		if ((void *)(ip + 1) > end)
			return false;
		ip->saddr = ((const __u32 *)to->saddr)[3];
		ip->daddr = ((const __u32 *)to->daddr)[3];
		ip->ttl--;
		ip->check = ~fold_csum((__u64)(__u16)~ip->check + diff + (__u16)~bpf_htons(0x100));
	} else {
		struct ipv6hdr *ip6 = at;

		if ((void *)(ip6 + 1) > end)
			return false;
		copy_addr((__u8 *)&ip6->saddr, to->saddr);
		copy_addr((__u8 *)&ip6->daddr, to->daddr);
		ip6->hop_limit--;
	}
	if (p->key.proto == IPPROTO_SCTP) /* its checksum covers no addresses, its ports stay */
		return true;
	if ((void *)(l4 + 2) > end)
		return false;
	l4[0] = bpf_htons(to->sport);
	l4[1] = bpf_htons(to->dport);
	l4 = frame_at(ctx, checksum_at(p));
	if ((void *)(l4 + 1) > end)
		return false;
	if (!udp || *l4) /* else its sender left it out, and so it stays */
		mend_whole((__u16 *)l4, udp, diff + ports);
	return true;
}

/* Sends a packet off with other ends. */
static __always_inline int send_off(struct xdp_md *ctx, const struct packet *p,
				    const struct flow_key *to, const struct way *way)
{
	struct ethhdr *eth = frame(ctx);

	if (!rewrite_ends(ctx, p, to))
		return XDP_ABORTED;
	if ((void *)(eth + 1) > frame_end(ctx))
		return XDP_ABORTED;
	__builtin_memcpy(eth->h_source, way->smac, ETH_ALEN);
	__builtin_memcpy(eth->h_dest, way->dmac, ETH_ALEN);
	if (way->ifindex == ctx->ingress_ifindex)
		return XDP_TX;
	return bpf_redirect(way->ifindex, 0);
}

/*
 * A packet of each flow goes by ingress every so often, with its Ethernet address found out by the
 * stack: that asks again for neighbours that it has not heard of for a while, which the FIB's
 * answer alone does not. 2^12 jiffies are 4 to 41 seconds.
 */
#define ASK_SHIFT 12

static __always_inline bool is_to_ask(const struct flow *f)
{
	return (now() ^ f->seen) >> ASK_SHIFT;
}

/* A client's packet, of the flow whose E1 is f. */
static __always_inline int from_client(struct xdp_md *ctx, const struct packet *p, struct flow *f)
{
	struct backend *b = backend_of(f);
	struct flow_key to;
	struct flow *e2;
	struct way *way;

	/* what may end the flow, or have it picked anew, is ingress's */
	if (!(f->flags & FLOW_XDP) || is_to_ask(f) || !b || b->state != BACKEND_ACTIVE ||
	    (p->key.proto == IPPROTO_TCP && is_syn(p->tcp_flags)))
		return XDP_PASS;
	make_key(&to, p->key.saddr, p->key.sport, f->addr, f->port, &p->key, POSITION_E2);
	way = way_of(ctx, p, &to);
	if (!way)
		return XDP_PASS;
	if (f->flags & FLOW_MASQUERADE) {
		e2 = find(&to);
		if (!e2)
			return XDP_PASS;
		set_addr(to.saddr, e2->addr);
		to.sport = e2->port;
	}
	follow_client(p, f, load_word(f));
	touch(f, p->bytes);
	count_in(f->backend, p->bytes);
	return send_off(ctx, p, &to, way);
}

/* A backend's packet, whose E4 has this key. */
static __always_inline int to_client(struct xdp_md *ctx, struct packet *p, struct flow_key *k)
{
	struct flow_key from = p->key;
	struct flow *r = find(k);
	struct way *way;

	if (!r || !(r->flags & FLOW_XDP) || r->flags & FLOW_RESOURCED || is_to_ask(r))
		return XDP_PASS;
	way = way_of(ctx, p, k);
	if (!way)
		return XDP_PASS;
	p->key = *k; /* as egress would see it */
	follow_backend(p, r);
	set_addr(k->saddr, r->addr);
	k->sport = r->port;
	p->key = from;
	return send_off(ctx, p, k, way);
}

static __always_inline int xdp(struct xdp_md *ctx)
{
	bool to_vip, to_peer;
	struct packet p = {};
	struct flow_key k;
	struct flow *f;
	__u32 mark;

	if (!frame_addrs(ctx, &p))
		return XDP_PASS;
	mark = end_mark(p.key.daddr, p.v4);
	to_vip = is_marked(&vip_bits, mark);
	to_peer = is_marked(&peer_bits, mark);
	if ((!to_vip && !to_peer && !is_marked(&peer_bits, end_mark(p.key.saddr, p.v4))) ||
	    !frame_ports(ctx, &p))
		return XDP_PASS;
	if (to_vip || (to_peer && may_be_node_port(p.key.dport))) {
		set_position(&p.key, POSITION_E1);
		f = find(&p.key);
		if (f)
			return from_client(ctx, &p, f);
	}
	if (!backend_is_marked(&backend_bits, p.key.saddr, p.key.sport, p.key.proto))
		return XDP_PASS;
	key_at(&k, &p.key, POSITION_E3);
	f = to_vip || to_peer ? find(&k) : NULL;
	if (f) {
		if (!(f->flags & FLOW_XDP))
			return XDP_PASS;
		set_addr(k.daddr, f->addr);
		k.dport = f->port;
	}
	set_position(&k, POSITION_E4);
	return to_client(ctx, &p, &k);
}
