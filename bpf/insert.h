/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* How a flow comes to be: its reply entry first, then the forward entry, then the count. */
#pragma once

/* Ports that are tried before a flow is refused. */
#define PORT_ATTEMPTS 128

/*
 * Begins a new flow for a packet, which counts; the rest is zero. NULL: never, but the verifier
 * asks.
 */
static __always_inline struct work *begin(const struct packet *p)
{
	__u32 zero = 0;
	struct work *w = bpf_map_lookup_elem(&works, &zero);

	if (!w)
		return NULL;
	key_at(&w->key, &p->key, POSITION_E1);
	__builtin_memset(&w->flow, 0, sizeof(w->flow));
	set_counted(&w->flow,
		    p->key.proto == IPPROTO_TCP ? next_state(STATE_NONE, p->tcp_flags, IN)
						: STATE_UDP,
		    0, 0, 0);
	set_seen(&w->flow, now(), 1);
	w->flow.bytes = p->bytes;
	return w;
}

enum placed { PLACED, PLACE_TAKEN, PLACE_FULL };

/* Inserts an entry that is not a forward one, where there is none or a dead one. */
static __noinline enum placed place(const struct flow_key *key, struct flow *v)
{
	struct flow *f;

	if (!key || !v)
		return PLACE_FULL;
	if (insert(key, v))
		return PLACED;
	f = entry_of(key);
	if (!f)
		return PLACE_FULL;
	return revive(key, f, v) ? PLACED : PLACE_TAKEN;
}

/* The n-th port that may stand for a client's; 0: there is none. */
static __always_inline __u16 nth_port(__u32 n)
{
	__u32 i = 0;
	__u64 *word = bpf_map_lookup_elem(&masq_ports, &i);

	if (!word || !*word)
		return 0;
	n %= (__u32)*word;
	i = 1 + n / 4;
	word = bpf_map_lookup_elem(&masq_ports, &i);
	return word ? *word >> 16 * (n & 3) : 0;
}

/* Makes w->entry the reply entry of w->flow: it leads back to the VIP. */
static __always_inline void reply_entry(struct work *w)
{
	set_addr(w->entry.addr, w->key.daddr);
	set_counted(&w->entry, STATE_REPLY, w->flow.flags & ~FLOW_HALF_OPEN, w->key.dport,
		    w->flow.backend);
	set_seen(&w->entry, w->flow.seen, 0);
	w->entry.service_hash = w->flow.service_hash;
	w->entry.backend_hash = w->flow.backend_hash;
	w->entry.bytes = 0;
}

/* Makes a reply entry to the same VIP that of w->flow. */
static __always_inline void take_reply(struct work *w, struct flow *r)
{
	r->seen = w->entry.seen; /* keeps the sweeper off until the forward entry is there */
	r->flags = w->entry.flags;
	r->backend = w->entry.backend;
	r->service_hash = w->entry.service_hash;
	r->backend_hash = w->entry.backend_hash;
}

/*
 * Inserts the reply entry. One that rewrites to the same VIP is as good: another CPU's, or what a
 * former flow of this tuple left.
 */
static __always_inline enum drop_reason insert_reply(struct work *w)
{
	struct flow *old;

	reply_entry(w);
	switch (place(&w->reply, &w->entry)) {
	case PLACED:
		return DROP_NONE;
	case PLACE_FULL:
		return DROP_FLOWS_FULL;
	case PLACE_TAKEN:
		break;
	}
	old = find(&w->reply);
	if (!old || !replies_to(old, &w->key) || old->flags & FLOW_RESOURCED)
		return DROP_REPLY_TAKEN;
	take_reply(w, old);
	if (growing && is_moved(old)) {
		old = find(&w->reply);
		if (old)
			take_reply(w, old);
	}
	return DROP_NONE;
}

struct resource {
	struct work *w;
	__u32 start;
	enum placed got;
};

static long try_source_port(__u32 i, struct resource *c)
{
	struct work *w = c->w;

	w->reply.dport = nth_port(c->start + i);
	if (!w->reply.dport)
		return 1;
	c->got = place(&w->reply, &w->entry);
	return c->got != PLACE_TAKEN;
}

/*
 * Gives a flow, whose client port is not free towards the backend, another one. The client's own
 * port is kept in R4, the other in R1, under the keys of the reply and the forward entry.
 */
static __noinline enum drop_reason resource(struct work *w)
{
	struct resource c = {.w = w, .got = PLACE_TAKEN};
	struct flow_key k;
	struct flow *f;

	if (!w)
		return DROP_REPLY_TAKEN;
	if (w->key.proto == IPPROTO_SCTP) /* its checksum cannot follow a port */
		return DROP_REPLY_TAKEN;
	/* XDP changes an end only once */
	set_flags(&w->flow, (w->flow.flags | FLOW_RESOURCED) & ~FLOW_XDP);
	reply_entry(w);
	c.start = bpf_get_prandom_u32();
	bpf_loop(PORT_ATTEMPTS, try_source_port, &c, 0);
	if (c.got != PLACED)
		return c.got == PLACE_FULL ? DROP_FLOWS_FULL : DROP_REPLY_TAKEN;
	copy_addr(w->entry.addr, w->key.saddr);
	w->entry.port = w->key.sport;
	key_at(&k, &w->reply, POSITION_R4);
	c.got = place(&k, &w->entry);
	if (c.got == PLACED) {
		w->entry.port = w->reply.dport;
		key_at(&k, &w->key, POSITION_R1);
		c.got = place(&k, &w->entry);
		if (c.got == PLACED)
			return DROP_NONE;
		key_at(&k, &w->reply, POSITION_R4);
		f = find(&k);
		if (f)
			discard(f);
	}
	/* no room, or another CPU is doing the same; what it wins, it does not share */
	f = find(&w->reply);
	if (f)
		discard(f);
	return c.got == PLACE_FULL ? DROP_FLOWS_FULL : DROP_BUSY;
}

/* Whether the client is connected to the backend itself, from the same port. */
static __always_inline bool is_direct(const struct flow_key *reply)
{
	__u32 mark = backend_mark(reply->saddr, reply->sport, reply->proto);
	__u64 *w = direct_word(mark);

	return w && has_mark(*w, mark) && bpf_map_lookup_elem(&direct, reply);
}

/*
 * Puts the pair in the map and counts it. On DROP_NONE *made is the flow as it is there, with this
 * packet counted, which is w->flow, or the live forward entry of a CPU that was faster.
 */
static __noinline enum drop_reason insert_flow(struct work *w, struct flow **made)
{
	enum drop_reason reason = DROP_REPLY_TAKEN;
	struct flow *f;

	if (!w || !made)
		return DROP_BUSY;

	reply_key(&w->reply, &w->key, w->flow.addr, w->flow.port);
	if (!is_direct(&w->reply))
		reason = insert_reply(w);
	if (reason == DROP_REPLY_TAKEN)
		reason = resource(w);
	if (reason != DROP_NONE)
		return reason;
	if (insert(&w->key, &w->flow))
		goto counted;
	f = entry_of(&w->key);
	if (!f) {
		end_replies(&w->key, &w->flow, false);
		return DROP_FLOWS_FULL;
	}
	if (revive(&w->key, f, &w->flow))
		goto counted;
	if (f->backend_hash != w->flow.backend_hash)
		end_replies(&w->key, &w->flow, false);
	if (!is_live(load_word(f)))
		return DROP_BUSY;
	*made = f;
	return DROP_NONE;
counted:
	if (w->flow.flags & FLOW_DIRECT)
		count_resourced(&w->key, 1);
	else
		add_load(w->flow.backend, one_entry(w->flow.state));
	if (w->flow.flags & FLOW_HALF_OPEN)
		enter_half_open(w);
	*made = &w->flow;
	return DROP_NONE;
}
