/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The two ways of a packet: to a VIP (ingress, position E1) and back (egress, position E4). */
#pragma once

enum verdict {
	VERDICT_PASS, /* go on, changed or not */
	VERDICT_DROP,
	VERDICT_ICMP, /* refuse: port unreachable */
	VERDICT_RST,  /* refuse: reset */
};

static __always_inline enum verdict drop(enum drop_reason reason)
{
	count_drop(reason);
	return VERDICT_DROP;
}

static __always_inline enum verdict refuse(enum drop_reason reason, enum verdict answer)
{
	count_drop(reason);
	return answer;
}

static __always_inline bool is_assigned(const addr_t addr)
{
	__u32 *flags = bpf_map_lookup_elem(&node_addrs, addr);

	return flags && *flags & NODE_ADDR_ASSIGNED;
}

static __always_inline struct vip *find_vip(const addr_t addr, __u16 port, __u8 proto)
{
	struct vip_key k = {.port = port, .proto = proto};

	copy_addr(k.addr, addr);
	return bpf_map_lookup_elem(&vips, &k);
}

/*
 * A packet to a VIP's address that no service asked for. The machine's own addresses keep their
 * own services, ssh first; a VIP that is only routed here must not leak to the default route.
 */
static __always_inline enum verdict unwanted(const struct packet *p, enum drop_reason reason)
{
	if (!find_vip(p->key.daddr, 0, 0) || is_assigned(p->key.daddr))
		return VERDICT_PASS;
	if (reason == DROP_UNKNOWN_PORT)
		return refuse(reason, VERDICT_ICMP);
	return drop(reason);
}

/* What is neither TCP nor UDP, or shows no ports. ICMP is the stack's: ping answers as ever. */
static __always_inline enum verdict portless(const struct packet *p, enum parsed why)
{
	if (why == PARSED_OTHER && (p->key.proto == IPPROTO_ICMP || p->key.proto == IPPROTO_ICMPV6))
		return VERDICT_PASS;
	switch (why) {
	case PARSED_OTHER:
		return unwanted(p, DROP_PROTOCOL);
	case PARSED_FRAGMENT:
		return unwanted(p, DROP_FRAGMENT);
	case PARSED_EXTENSION:
		return unwanted(p, DROP_EXTENSION);
	default:
		return unwanted(p, DROP_MALFORMED);
	}
}

static __always_inline enum verdict forward(struct __sk_buff *skb, struct packet *p, struct flow *f,
					    __u32 id)
{
	touch(f, p->bytes);
	count_in(id, p->bytes);
	if (!rewrite(skb, p, f->addr, f->port, DESTINATION))
		return drop(DROP_REWRITE);
	return VERDICT_PASS;
}

/* The first packet of a flow, or one that needs a new backend. */
static __noinline enum verdict new_flow(struct __sk_buff *skb, struct packet *p)
{
	struct draft d = {};
	enum drop_reason reason;
	struct service *svc;
	struct backend *b;
	struct flow *f;
	struct vip *v;
	__u32 id;

	if (!p)
		return VERDICT_PASS;
	v = find_vip(p->key.daddr, p->key.dport, p->key.proto);
	if (!v)
		return unwanted(p, DROP_UNKNOWN_PORT);
	if (p->fragment)
		return drop(DROP_FRAGMENT);
	if (p->key.proto == IPPROTO_TCP &&
	    (p->tcp_flags & (TCP_SYN | TCP_ACK | TCP_RST)) != TCP_SYN) {
		if (is_assigned(p->key.daddr))
			return VERDICT_PASS; /* the stack knows the connection, or resets it */
		if (p->tcp_flags & TCP_RST)
			return drop(DROP_NO_FLOW); /* a reset is never answered */
		return refuse(DROP_NO_FLOW, VERDICT_RST);
	}
	svc = bpf_map_lookup_elem(&services, &v->service);
	id = svc ? pick(&p->key, *(volatile __u64 *)&svc->pool) : 0;
	b = id ? backend_at(id) : NULL;
	if (!b || !b->hash)
		return refuse(DROP_EMPTY_POOL, VERDICT_ICMP);
	copy_addr(d.flow.addr, b->addr);
	d.flow.port = b->port;
	d.flow.state = p->key.proto == IPPROTO_TCP ? STATE_SYN_RECV : STATE_UDP;
	d.flow.backend = id;
	d.flow.seen = now();
	d.flow.service_hash = svc->hash;
	d.flow.backend_hash = b->hash;
	reply_key(&d.reply_key, &p->key, d.flow.addr, d.flow.port);
	reason = insert_flow(&p->key, &d, &f);
	if (reason == DROP_REPLY_TAKEN)
		return refuse(reason, VERDICT_ICMP);
	if (reason != DROP_NONE)
		return drop(reason);
	count_connection(id);
	return forward(skb, p, f, f->backend);
}

/* Whether a packet of a live entry wants a new backend: see "port reuse" in docs/packet-path.md. */
static __always_inline bool wants_pick(const struct packet *p, __u32 word, __u32 id)
{
	__u8 state = word & 0xff;
	struct backend *b;

	if (p->key.proto == IPPROTO_TCP) {
		if ((p->tcp_flags & (TCP_SYN | TCP_ACK)) != TCP_SYN)
			return false;
		if (state == TW || state == CL)
			return true;
		b = backend_at(id);
		return !b || !serves(b);
	}
	if (id) {
		b = backend_at(id);
		if (b && b->state == BACKEND_ACTIVE)
			return false;
	}
	/* the service is gone too: the flow runs on until its timeout */
	return find_vip(p->key.daddr, p->key.dport, p->key.proto) != NULL;
}

static __always_inline enum verdict to_vip(struct __sk_buff *skb, __u32 l3)
{
	struct packet p;
	enum parsed got;
	struct flow *f;
	__u32 word, id;

	if (skb->pkt_type != 0 /* PACKET_HOST */ || skb->vlan_present || !parse_addrs(skb, &p, l3))
		return VERDICT_PASS;
	if (!bit_is_set(&vip_bits, vip_bit(p.key.daddr)))
		return VERDICT_PASS;
	got = parse_ports(skb, &p);
	if (got != PARSED_OK)
		return portless(&p, got);
	p.key.pad = 0;
	p.key.position = POSITION_E1;
	f = bpf_map_lookup_elem(&flows, &p.key);
	if (!f)
		return new_flow(skb, &p);
	word = load_word(f);
	if (!is_live(word))
		return new_flow(skb, &p);
	if (p.fragment)
		return drop(DROP_FRAGMENT);
	id = backend_of(f);
	if (wants_pick(&p, word, id)) {
		retire(f, word);
		return new_flow(skb, &p);
	}
	if (p.key.proto == IPPROTO_TCP &&
	    (p.tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST) || (word & 0xff) != ES))
		follow_tcp(f, p.tcp_flags, IN);
	return forward(skb, &p, f, id);
}

/* What a reply says about its flow is kept in the forward entry. */
static __always_inline void follow_reply(const struct packet *p, struct flow *r)
{
	struct flow_key k;
	struct flow *f;

	forward_key(&k, &p->key, r);
	f = bpf_map_lookup_elem(&flows, &k);
	if (f && p->key.proto == IPPROTO_TCP)
		follow_tcp(f, p->tcp_flags, OUT);
	else if (f)
		__sync_fetch_and_or(word_of(f), FLOW_REPLIED << 8);
}

static __always_inline enum verdict from_backend(struct __sk_buff *skb, struct packet *p,
						 struct flow *r)
{
	__u32 id = backend_of(r);

	if (p->fragment)
		return drop(DROP_FRAGMENT);
	if (p->tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST)) {
		follow_reply(p, r);
	} else if (!(r->flags & FLOW_REPLIED)) {
		r->flags |= FLOW_REPLIED;
		follow_reply(p, r);
	}
	touch(r, p->bytes);
	count_out(id, p->bytes);
	if (!rewrite(skb, p, r->addr, r->port, SOURCE))
		return drop(DROP_REWRITE);
	return VERDICT_PASS;
}

static __always_inline enum verdict to_client(struct __sk_buff *skb, __u32 l3)
{
	struct packet p;
	struct flow *r;

	if (skb->vlan_present || !parse_addrs(skb, &p, l3) || parse_ports(skb, &p) != PARSED_OK)
		return VERDICT_PASS;
	if (bit_is_set(&backend_bits, backend_bit(p.key.saddr, p.key.sport, p.key.proto))) {
		p.key.pad = 0;
		p.key.position = POSITION_E4;
		r = bpf_map_lookup_elem(&flows, &p.key);
		if (r)
			return from_backend(skb, &p, r);
	}
	if (bit_is_set(&vip_bits, vip_bit(p.key.daddr)) &&
	    find_vip(p.key.daddr, p.key.dport, p.key.proto))
		return drop(DROP_UNTRANSLATED);
	return VERDICT_PASS;
}
