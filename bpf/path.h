/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The two hooks: what comes in, and what leaves. */
#pragma once

/* Puts together the flow of packet p to a backend. */
static __always_inline void lead(struct work *w, const struct packet *p, bool masquerade,
				 const struct service *svc, const struct backend *b, __u32 id)
{
	__u8 flags = FLOW_HALF_OPEN;

	set_addr(w->flow.addr, b->addr);
	/* a client that is the backend must not meet its own address as the source */
	if (masquerade || same_addr(p->key.saddr, b->addr))
		flags |= FLOW_MASQUERADE;
	if (svc->affinity)
		flags |= FLOW_AFFINITY;
	set_counted(&w->flow, w->flow.state, flags, b->port ? b->port : p->key.dport, id);
	w->flow.service_hash = svc->hash;
	w->flow.backend_hash = b->hash;
}

/* Whether a pool has nobody, and others have: it drops what it does not take. */
static __always_inline bool is_elsewhere(__u64 word)
{
	return !(word >> 32 & 0xffffff) && word >> 60 & RULE_EMPTY_DROP;
}

/* To a service whose pool has nobody for it. */
static __always_inline enum verdict nobody(const struct service *svc, __u32 pool)
{
	if (is_elsewhere(pool_word(svc, pool)))
		return drop(DROP_NO_LOCAL);
	return refuse(DROP_EMPTY_POOL, VERDICT_ICMP);
}

/* The first packet of a flow that we see, or one that needs a new backend. */
__noinline enum verdict new_flow(struct __sk_buff *skb, struct packet *p)
{
	enum drop_reason reason;
	enum verdict verdict;
	struct service *svc;
	struct backend *b;
	struct work *w;
	struct flow *f;
	struct terms terms;
	struct vip *v;
	bool begins;
	__u32 id;

	if (!p)
		return VERDICT_PASS;
	/* first: masquerading may have taken the port of a frontend of this address */
	if (unmasquerade(skb, p, &verdict))
		return verdict;
	v = find_frontend(p);
	begins = begins_flow(skb, p);
	if (!v) {
		if (!is_marked(&vip_bits, addr_mark(p->key.daddr)))
			return VERDICT_ELSEWHERE;
		return taking_over && !begins ? VERDICT_PASS : unwanted(p, DROP_UNKNOWN_PORT);
	}
	if (!begins && !resumes(skb, p, v->service))
		return stray(p);
	svc = bpf_map_lookup_elem(&services, &v->service);
	if (!svc)
		return VERDICT_PASS;
	if (v->flags & VIP_RESTRICTED && !is_admitted(p->key.saddr, v->service))
		return drop(DROP_SOURCE_RANGE);
	terms = terms_of(skb, p, v->flags);
	id = choose(p, v->service, terms.pool);
	b = backend_at(id);
	if (!id || !b || !b->hash)
		return begins ? nobody(svc, terms.pool) : stray(p);
	w = begin(p);
	if (!w)
		return VERDICT_PASS;
	lead(w, p, terms.masquerade, svc, b, id);
	if (is_once(p, svc)) {
		if (p->part != LATER)
			count_connection(id);
		return forward(skb, p, &w->flow, id);
	}
	if (with_xdp && is_for_xdp(skb, p, w))
		set_flags(&w->flow, w->flow.flags | FLOW_XDP);
	reason = insert_flow(w, &f);
	if (reason == DROP_FLOWS_FULL && make_room(ROOM_ATTEMPTS)) {
		set_flags(&w->flow, w->flow.flags & ~FLOW_RESOURCED); /* of the first attempt */
		reason = insert_flow(w, &f);
	}
	if (reason == DROP_REPLY_TAKEN)
		return refuse(reason, VERDICT_ICMP);
	if (reason != DROP_NONE)
		return drop(reason);
	count_connection(id);
	return forward(skb, p, f, f->backend);
}

/* To a VIP, with ports known. */
static __always_inline enum verdict to_vip(struct __sk_buff *skb, struct packet *p)
{
	struct flow *f = find(&p->key);
	struct backend *b;
	enum fate fate;

	if (!f)
		return new_flow(skb, p);
	b = backend_of(f);
	if (!b || b->state != BACKEND_ACTIVE ||
	    (p->key.proto == IPPROTO_TCP && is_syn(p->tcp_flags))) {
		fate = reconsider(p);
		if (fate == FATE_DROP)
			return drop(DROP_BACKEND_GONE);
		if (fate == FATE_END) {
			p->ended = true;
			return new_flow(skb, p);
		}
	}
	return forward_known(skb, p, f, load_word(f), b ? f->backend : 0);
}

/* Whether a frame that came by a bridge's port is for the bridge itself. */
static __noinline bool is_for_bridge(struct __sk_buff *skb)
{
	__u32 ifindex = skb->ifindex;
	struct device *d;
	struct ethhdr *eth;

	d = bpf_map_lookup_elem(&devices, &ifindex);
	eth = data(skb);
	if (!d || !(d->flags & DEVICE_PORT) || (void *)(eth + 1) > data_end(skb))
		return false;
	return !__builtin_memcmp(eth->h_dest, d->mac, ETH_ALEN);
}

#define VLAN_ID 0xfff /* of the tag; the rest is the priority */

/* Whether a frame is a VLAN's. VLAN 0 is none: such a tag holds but a priority. */
static __always_inline bool is_tagged(struct __sk_buff *skb)
{
	return skb->vlan_present && skb->vlan_tci & VLAN_ID;
}

static __always_inline enum verdict ingress(struct __sk_buff *skb, __u32 l3)
{
	enum verdict verdict;
	struct packet p;
	enum parsed got;
	__u32 mark;
	bool vip;

	if (is_tagged(skb) || !parse_addrs(skb, &p, l3))
		return VERDICT_PASS;
	mark = end_mark(p.key.daddr, p.v4);
	vip = is_marked(&vip_bits, mark);
	if (!vip && !is_marked(&peer_bits, mark)) {
		if (with_xdp && skb->pkt_type == PACKET_HOST &&
		    (is_marked(&peer_bits, end_mark(p.key.saddr, p.v4)) || is_icmp(skb, &p))) {
			verdict = transit(skb, &p);
			if (verdict != VERDICT_ELSEWHERE)
				return verdict;
		}
		if (skb->pkt_type != PACKET_HOST || !in_service_range(p.key.daddr))
			return VERDICT_PASS;
		if (!taking_over)
			return unallocated(&p);
	}
	/*
	 * A bridge passes on what is for others. What is for the bridge is taken at its port, as
	 * netfilter may see it there (br_netfilter) and must meet the backend's address.
	 */
	if (skb->pkt_type != PACKET_HOST &&
	    (skb->pkt_type != PACKET_OTHERHOST || !l3 || !is_for_bridge(skb)))
		return VERDICT_PASS;
	got = parse_ports(skb, &p);
	if (got == PARSED_OTHER && (p.key.proto == IPPROTO_ICMP || p.key.proto == IPPROTO_ICMPV6)) {
		verdict = icmp_in(skb, &p);
		return verdict == VERDICT_ELSEWHERE ? leftover(&p) : verdict;
	}
	if (got != PARSED_OK && got != PARSED_LATER)
		return vip ? portless(&p, got) : leftover(&p);
	if (p.part != WHOLE) {
		verdict = join(skb, &p, BPF_F_INGRESS);
		if (verdict != VERDICT_PASS)
			return verdict;
	}
	set_position(&p.key, POSITION_E1);
	if (vip || may_be_node_port(p.key.dport)) {
		verdict = to_vip(skb, &p);
		if (verdict != VERDICT_ELSEWHERE)
			return verdict;
	} else if (unmasquerade(skb, &p, &verdict)) {
		return verdict;
	}
	return with_xdp && returns(&p) ? VERDICT_ONWARD : to_backend(skb, &p);
}

/* The pool that a frontend picks from for who is on this machine. */
static __always_inline __u32 pool_here(const struct vip *v)
{
	return v->flags & VIP_LOCAL && !(v->flags & VIP_SHORT_CIRCUIT) ? POOL_LOCAL : POOL_CLUSTER;
}

/* Why a packet to a frontend leaves: its socket was left alone, as it is to be dropped. */
static __noinline enum drop_reason why_untranslated(const struct packet *p, const struct vip *v)
{
	struct service *svc;

	if (!p || !v)
		return DROP_UNTRANSLATED;
	svc = bpf_map_lookup_elem(&services, &v->service);
	if (v->flags & VIP_RESTRICTED && !is_admitted(p->key.saddr, v->service))
		return DROP_SOURCE_RANGE;
	if (svc && is_elsewhere(pool_word(svc, pool_here(v))))
		return DROP_NO_LOCAL;
	return DROP_UNTRANSLATED;
}

/* Egress, of a packet that is no flow's. */
static __always_inline enum verdict leaving(struct __sk_buff *skb, const struct packet *p)
{
	struct vip *v;

	/* a bridge passes on what is for others: that is none of ours */
	if (skb->pkt_type == PACKET_OTHERHOST || !is_marked(&vip_bits, addr_mark(p->key.daddr)))
		return VERDICT_PASS;
	v = find_frontend(p);
	return v ? drop(why_untranslated(p, v)) : VERDICT_PASS;
}

/*
 * Whether a packet that leaves may be of a flow, or to a frontend; by what is at hand once the
 * addresses are. What is neither TCP nor UDP may be an error about one.
 */
static __always_inline bool may_concern(struct __sk_buff *skb, const struct packet *p)
{
	__u32 source = end_mark(p->key.saddr, p->v4), destination = end_mark(p->key.daddr, p->v4);
	__u8 *proto = header(skb, p->l3 + (p->v4 ? offsetof(struct iphdr, protocol)
						 : offsetof(struct ipv6hdr, nexthdr)));

	if ((void *)(proto + 1) > data_end(skb) || (*proto != IPPROTO_TCP && *proto != IPPROTO_UDP))
		return true;
	/* the agent sets the bits of backends' addresses in peer_bits before those of backends */
	return is_marked(&peer_bits, source) || is_marked(&peer_bits, destination) ||
	       is_marked(&vip_bits, destination) || same_addr(p->key.saddr, p->key.daddr);
}

static __always_inline enum verdict egress(struct __sk_buff *skb, __u32 l3)
{
	enum verdict verdict;
	struct packet p;
	enum parsed got;
	struct flow *r;

	if (is_tagged(skb) || !parse_addrs(skb, &p, l3) || !may_concern(skb, &p))
		return VERDICT_PASS;
	got = parse_ports(skb, &p);
	if (got == PARSED_OTHER)
		return icmp_out(skb, &p);
	if (got != PARSED_OK && got != PARSED_LATER)
		return VERDICT_PASS;
	if (p.part != WHOLE && (is_marked(&peer_bits, addr_mark(p.key.saddr)) ||
				is_marked(&peer_bits, addr_mark(p.key.daddr)))) {
		verdict = join(skb, &p, 0);
		if (verdict != VERDICT_PASS)
			return verdict;
	} else if (got == PARSED_LATER) {
		return VERDICT_PASS;
	}
	if (backend_is_marked(&backend_bits, p.key.saddr, p.key.sport, p.key.proto)) {
		set_position(&p.key, POSITION_E4);
		r = find(&p.key);
		if (r)
			return from_backend(skb, &p, r);
	}
	verdict = leaving(skb, &p);
	if (verdict == VERDICT_PASS &&
	    (same_addr(p.key.saddr, p.key.daddr) ||
	     backend_is_marked(&masq_bits, p.key.daddr, p.key.dport, p.key.proto)))
		return masquerade(skb, &p);
	return verdict;
}
