/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Masquerading: the backend is to see this node's address, so that its replies come back here. The
 * source is rewritten at egress, where the device and with it the address are known (E2), and back
 * when the reply comes in (E3).
 */
#pragma once

/*
 * How long a finished flow keeps its port, if others are free: its last ACK comes up to a round
 * trip after the FIN that finished it, and without that the backend sends its FIN again.
 */
#define KEEP_PORT_SECONDS 1

/*
 * Whether the flow whose E3 is f, under this key, is over: nothing but its entries' rest keeps its
 * port. rested: and its last packet is some time ago.
 */
__noinline bool is_over(const struct flow_key *e3, const struct flow *f, bool rested)
{
	struct flow_key k;
	struct flow *r, *f1;
	__u32 word;

	if (!e3 || !f)
		return false;
	make_key(&k, e3->saddr, e3->sport, f->addr, f->port, e3, POSITION_E4);
	r = find(&k);
	if (!r || !turn_forward(&k, r))
		return true;
	f1 = entry_of(&k);
	if (!f1)
		return true;
	word = load_word(f1);
	if (!is_live(word))
		return true;
	if (k.proto != IPPROTO_TCP || !is_finished(state_of(word)))
		return false;
	if (rested && !(older(f1, now(), KEEP_PORT_SECONDS) && older(r, now(), KEEP_PORT_SECONDS)))
		return false;
	return retire(&k, f1, word);
}

/*
 * Takes a port whose E3 is another flow's, if that one is over: a new connection may take the port
 * of one in TIME_WAIT or CLOSE, else a busy client would use up the ports of two minutes.
 */
static __noinline bool take_over(const struct flow_key *e3, struct flow *v, bool rested)
{
	struct flow *f = e3 ? entry_of(e3) : NULL;

	if (!f || !v || !is_over(e3, f, rested))
		return false;
	/* it died with its flow, unless another CPU was faster: then it is that one's */
	return growing ? insert(e3, v) : revive(e3, f, v);
}

struct masquerade {
	struct work *w;
	__u32 start;
	__u32 rested; /* 1: only ports whose flow has rested */
	__u32 taken;  /* 0 or 1 */
	__u32 full;
};

static __always_inline bool try_masquerade(struct masquerade *c, __u16 port)
{
	struct work *w = c->w;

	w->reply.dport = port;
	switch (place(&w->reply, &w->entry)) {
	case PLACED:
		c->taken = 1;
		break;
	case PLACE_TAKEN:
		c->taken = take_over(&w->reply, &w->entry, c->rested);
		break;
	case PLACE_FULL: /* the next port finds room, if there was a half-open flow */
		c->full = !make_room(ROOM_ATTEMPTS);
	}
	return c->taken || c->full;
}

static long try_masquerade_port(__u32 i, struct masquerade *c)
{
	__u16 port = nth_port(c->start + i);

	return !port || try_masquerade(c, port);
}

static __always_inline void try_masquerade_ports(struct masquerade *c)
{
	if (c->taken || c->full)
		return;
	c->start = bpf_get_prandom_u32();
	bpf_loop(PORT_ATTEMPTS, try_masquerade_port, c, 0);
}

/* Whether a port is one that masquerading may use. */
static __always_inline bool is_masq_port(__u16 port)
{
	__u32 i = MASQ_BITS + (port >> 6);
	__u64 *word = bpf_map_lookup_elem(&masq_ports, &i);

	return word && *word >> (port & 63) & 1;
}

/*
 * Finds a port for E3, whose key lacks it, and enters it; the client's own port first, and those
 * that were just closed last.
 */
static __noinline enum drop_reason masquerade_port(struct work *w)
{
	struct masquerade c = {.w = w, .rested = 1};

	if (!w)
		return DROP_NO_PORT;
	if (w->key.proto == IPPROTO_SCTP || is_masq_port(w->key.sport))
		try_masquerade(&c, w->key.sport);
	if (w->key.proto != IPPROTO_SCTP) {
		try_masquerade_ports(&c);
		c.rested = 0;
		try_masquerade_ports(&c);
	}
	if (c.taken)
		return DROP_NONE;
	return c.full ? DROP_FLOWS_FULL : DROP_NO_PORT;
}

/* What the source of a packet that leaves by a device becomes; NULL: nothing fits. */
static __always_inline const __u8 *masquerade_addr(const struct packet *p, __u32 ifindex)
{
	struct device *d = bpf_map_lookup_elem(&devices, &ifindex);
	const __u64 *a;

	if (!d)
		return NULL;
	a = (const __u64 *)(p->v4 ? d->addr4 : d->addr6);
	return a[0] | a[1] ? (const __u8 *)a : NULL;
}

/* E3 and then E2 of a flow that is to be masqueraded with addr; r is its E4. */
static __always_inline enum drop_reason insert_masquerade(struct work *w, const struct flow *r,
							  const addr_t addr)
{
	enum drop_reason reason;
	enum placed got;
	struct flow *e3;

	make_key(&w->reply, w->key.daddr, w->key.dport, addr, 0, &w->key, POSITION_E3);
	w->entry = *r;
	copy_addr(w->entry.addr, w->key.saddr);
	w->entry.port = w->key.sport;
	w->entry.state = STATE_REPLY;
	w->entry.flags = FLOW_MASQUERADE | (r->flags & FLOW_XDP);
	w->entry.seen = now();
	reason = masquerade_port(w);
	if (reason != DROP_NONE)
		return reason;
	copy_addr(w->entry.addr, addr);
	w->entry.port = w->reply.dport;
	/* taken: another CPU's packet of this flow was faster; its port counts, ours is swept */
	got = place(&w->key, &w->entry);
	if (got == PLACE_FULL && make_room(ROOM_ATTEMPTS))
		got = place(&w->key, &w->entry);
	if (got != PLACE_FULL)
		return DROP_NONE;
	e3 = find(&w->reply);
	if (e3)
		discard(e3);
	return DROP_FLOWS_FULL;
}

/* The first packet of a flow that leaves here, if the flow is to be masqueraded. */
__noinline enum verdict new_masquerade(struct __sk_buff *skb, struct packet *p)
{
	enum drop_reason reason;
	const __u8 *addr;
	struct work *w;
	struct flow *f;
	__u32 one = 1;

	if (!p)
		return VERDICT_PASS;
	w = bpf_map_lookup_elem(&works, &one);
	if (!w)
		return VERDICT_PASS;
	answer_key(&w->reply, &p->key, POSITION_E4);
	f = find(&w->reply);
	if (!f || !(f->flags & FLOW_MASQUERADE))
		return VERDICT_PASS; /* a direct connection, or a flow that keeps its source */
	addr = masquerade_addr(p, skb->ifindex);
	if (!addr)
		return drop(DROP_NO_ADDRESS);
	key_at(&w->key, &p->key, POSITION_E2);
	reason = insert_masquerade(w, f, addr);
	if (reason != DROP_NONE)
		return drop(reason);
	f = find(&w->key);
	if (!f)
		return drop(DROP_BUSY);
	return rewrite(skb, p, f->addr, f->port, SOURCE) ? VERDICT_PASS : drop(DROP_REWRITE);
}

/* Egress, to a backend, perhaps of a flow to be masqueraded. */
static __always_inline enum verdict masquerade(struct __sk_buff *skb, struct packet *p)
{
	struct flow *f;

	set_position(&p->key, POSITION_E2);
	f = find(&p->key);
	if (!f)
		return new_masquerade(skb, p);
	return rewrite(skb, p, f->addr, f->port, SOURCE) ? VERDICT_PASS : drop(DROP_REWRITE);
}

/* Ingress, from a backend, perhaps to what stands for a client. False: it is not. */
static __always_inline bool unmasquerade(struct __sk_buff *skb, struct packet *p, enum verdict *v)
{
	struct flow_key k;
	struct flow *f;

	if (!backend_is_marked(&backend_bits, p->key.saddr, p->key.sport, p->key.proto))
		return false;
	key_at(&k, &p->key, POSITION_E3);
	f = find(&k);
	if (!f)
		return false;
	*v = passing(f->flags);
	if (!rewrite(skb, p, f->addr, f->port, DESTINATION))
		*v = drop(DROP_REWRITE);
	return true;
}
