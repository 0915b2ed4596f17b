/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The keys that lead from one entry of a flow to another. */
#pragma once

/* The key of a packet from one end to another, in a position. */
static __always_inline void make_key(struct flow_key *k, const addr_t saddr, __u16 sport,
				     const addr_t daddr, __u16 dport, const struct flow_key *proto,
				     enum position position)
{
	__u64 s[2], d[2]; /* either may be of k itself */

	set_addr((__u8 *)s, saddr);
	set_addr((__u8 *)d, daddr);
	set_addr(k->saddr, s);
	set_addr(k->daddr, d);
	set_ports(k, sport, dport, proto->proto, position);
}

/* The same tuple in another position. */
static __always_inline void key_at(struct flow_key *k, const struct flow_key *key,
				   enum position position)
{
	make_key(k, key->saddr, key->sport, key->daddr, key->dport, key, position);
}

/* The tuple of the packets that answer. */
static __always_inline void answer_key(struct flow_key *k, const struct flow_key *key,
				       enum position position)
{
	make_key(k, key->daddr, key->dport, key->saddr, key->sport, key, position);
}

/* E4 of the flow that has key as E1 and leads to addr and port; not if it is resourced. */
static __always_inline void reply_key(struct flow_key *r, const struct flow_key *key,
				      const addr_t addr, __u16 port)
{
	make_key(r, addr, port, key->saddr, key->sport, key, POSITION_E4);
}

/*
 * Makes k, the key of E4 entry r, that of its flow's E1. False: it is resourced, and what knows the
 * client's port is not there.
 */
static __always_inline bool turn_forward(struct flow_key *k, const struct flow *r)
{
	__u16 sport = k->dport;
	struct flow *r4;

	if (r->flags & FLOW_RESOURCED) {
		set_position(k, POSITION_R4);
		r4 = find(k);
		if (!r4)
			return false;
		sport = r4->port;
	}
	make_key(k, k->daddr, sport, r->addr, r->port, k, POSITION_E1);
	return true;
}

/* E1 of the flow whose E4 is r under key. False: as turn_forward. */
static __always_inline bool forward_key(struct flow_key *k, const struct flow_key *key,
					const struct flow *r)
{
	*k = *key;
	return turn_forward(k, r);
}

/* Whether E4 entry r is of the flow with this E1. */
static __always_inline bool replies_to(const struct flow *r, const struct flow_key *e1)
{
	return same_addr(r->addr, e1->daddr) && r->port == e1->dport;
}
