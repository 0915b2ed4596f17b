/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Packets of flows, in both directions, once the flow's entry is found. */
#pragma once

/* The backend sees another port of the client: what it is stands in R1. */
static __noinline enum verdict forward_resourced(struct __sk_buff *skb, struct packet *p)
{
	struct flow_key k;
	struct flow *r1;

	if (!p)
		return VERDICT_PASS;
	key_at(&k, &p->key, POSITION_R1);
	r1 = find(&k);
	if (!r1)
		return drop(DROP_BUSY);
	return rewrite(skb, p, r1->addr, r1->port, SOURCE) ? VERDICT_PASS : drop(DROP_REWRITE);
}

/* Sends a packet of flow f to its backend, whose id is id; 0: gone, or nobody's. */
static __always_inline enum verdict forward(struct __sk_buff *skb, struct packet *p, struct flow *f,
					    __u32 id)
{
	__u8 flags = f->flags;

	touch(f, p->bytes);
	count_in(id, p->bytes);
	if (!rewrite(skb, p, f->addr, f->port, DESTINATION))
		return drop(DROP_REWRITE);
	if (flags & FLOW_RESOURCED)
		return forward_resourced(skb, p);
	return passing(flags);
}

/* Follows a packet again, whose flow's entry was moved meanwhile: twice is as good as once. */
__noinline int follow_moved(const struct packet *p)
{
	struct flow_key k;
	struct flow *f;

	if (!p)
		return 0;
	key_at(&k, &p->key, POSITION_E1);
	f = find(&k);
	if (f)
		follow_tcp(f, p->tcp_flags, IN);
	return 0;
}

/* What a client's packet says about its flow, which was there before. */
static __always_inline void follow_client(const struct packet *p, struct flow *f, __u32 word)
{
	if (p->key.proto != IPPROTO_TCP) {
		if (word & HALF_OPEN)
			follow_unanswered(p, f);
	} else if (p->part != LATER && (p->tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST) ||
					state_of(word) != ES || word & HALF_OPEN)) {
		follow_tcp(f, p->tcp_flags, IN);
		if (growing && is_moved(f))
			follow_moved(p);
	}
}

/* forward for a flow that was there before, whose state the packet may change. */
static __always_inline enum verdict forward_known(struct __sk_buff *skb, struct packet *p,
						  struct flow *f, __u32 word, __u32 id)
{
	follow_client(p, f, word);
	return forward(skb, p, f, id);
}

/* What a reply says about its flow f. */
static __always_inline void answered(const struct packet *p, struct flow *f)
{
	if (p->key.proto == IPPROTO_TCP)
		follow_tcp(f, p->tcp_flags, OUT);
	else
		settle(f, __sync_fetch_and_or(word_of(f), FLOW_REPLIED << 8) | FLOW_REPLIED << 8);
}

/*
 * What a reply says about its flow is kept in the forward entry. Apart, as the stack that it needs
 * is short where the hook masquerades, and few packets come here.
 */
__noinline int follow_reply(const struct packet *p, struct flow *r)
{
	struct flow_key k;
	struct flow *f;

	if (!p || !r || !forward_key(&k, &p->key, r))
		return 0;
	f = entry_of(&k);
	if (!f)
		return 0;
	answered(p, f);
	if (growing && is_moved(f)) { /* meanwhile: again, twice is as good as once */
		f = entry_of(&k);
		if (!f)
			return 0;
		answered(p, f);
	}
	if (f->flags & FLOW_AFFINITY)
		assure(&k, f);
	return 0;
}

/* The client's own port stands in R4. */
static __noinline enum verdict return_resourced(struct __sk_buff *skb, struct packet *p)
{
	struct flow_key k;
	struct flow *r4;

	if (!p)
		return VERDICT_PASS;
	key_at(&k, &p->key, POSITION_R4);
	r4 = find(&k);
	if (!r4)
		return drop(DROP_BUSY);
	return rewrite(skb, p, r4->addr, r4->port, DESTINATION) ? VERDICT_PASS : drop(DROP_REWRITE);
}

/* What a backend's packet says about the flow whose E4 is r, and its counters. */
static __always_inline void follow_backend(const struct packet *p, struct flow *r)
{
	struct backend *b = backend_of(r);
	__u8 flags = r->flags;

	if (p->part == LATER) {
		/* shows nothing of the flow's state */
	} else if (p->tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST)) {
		if (flags & FLOW_MASQUERADE)
			r->flags |= FLOW_REPLIED;
		follow_reply(p, r);
	} else if (flags & FLOW_MASQUERADE && p->key.proto == IPPROTO_TCP) {
		/*
		 * A bare ACK before any SYN is the backend's TIME_WAIT of another client's
		 * connection of this port. The client resets that, and comes again with its SYN:
		 * by the same port, which is now free there.
		 */
	} else if (!(flags & FLOW_REPLIED)) {
		r->flags |= FLOW_REPLIED;
		follow_reply(p, r);
	}
	touch(r, p->bytes);
	if (b)
		count_out(r->backend, p->bytes);
}

/* Egress, from a backend, of the flow whose E4 is r. */
static __always_inline enum verdict from_backend(struct __sk_buff *skb, struct packet *p,
						 struct flow *r)
{
	__u8 flags = r->flags;

	follow_backend(p, r);
	if (!rewrite(skb, p, r->addr, r->port, SOURCE))
		return drop(DROP_REWRITE);
	if (flags & FLOW_RESOURCED)
		return return_resourced(skb, p);
	return VERDICT_PASS;
}
