/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* How a flow ends: its entries with it, in two steps or at once. */
#pragma once

/*
 * First step of an entry's end: nobody sees it; the sweeper deletes it a second later. For entries
 * that are not counted: any but the forward one, for which there is retire.
 */
static __always_inline bool discard(struct flow *e)
{
	__u32 word = load_word(e);

	if (!is_live(word) || !replace_word(e, word, with_state(word, STATE_DEAD)))
		return false;
	e->seen = now();
	return true;
}

/* Bucket of a client among those whose direct connections were resourced. */
static __always_inline __u32 *resourced_of(const struct flow_key *key)
{
	__u32 i = (fold_addr(key->saddr) + key->sport) * GOLDEN_32 >> 20;

	return bpf_map_lookup_elem(&resourced, &i);
}

static __always_inline void count_resourced(const struct flow_key *key, __s32 n)
{
	__u32 *bucket = resourced_of(key);

	if (bucket)
		__sync_fetch_and_add(bucket, n);
}

/*
 * Both steps of an entry's end at once. Only where its packets were never answered: a program on
 * another CPU may still hold a pointer that comes to show another flow.
 */
static __always_inline void delete_entry(const struct flow_key *key, struct flow *e)
{
	__u32 word = load_word(e);

	if (is_live(word) && replace_word(e, word, with_state(word, STATE_CLAIMED)))
		delete_flow(key);
}

/* Ends an entry that is not a forward one, at once or in two steps. */
static __always_inline void end_entry(const struct flow_key *key, struct flow *e, bool at_once)
{
	if (at_once)
		delete_entry(key, e);
	else
		discard(e);
}

/* Makes k the key of E2 that leads from a client's address and port to the source of k. */
static __always_inline void turn_e2(struct flow_key *k, const addr_t saddr, __u16 sport)
{
	make_key(k, saddr, sport, k->saddr, k->sport, k, POSITION_E2);
}

/*
 * Ends E2 and E3 of a masqueraded flow with this E1, whose client has that port at the backend. k
 * is the key of its E4, and room: the stack is short here.
 */
static __always_inline void end_masquerade(const struct flow_key *key, __u16 port,
					   struct flow_key *k, bool at_once)
{
	struct flow *e2, *e3;

	turn_e2(k, key->saddr, port);
	e2 = find(k);
	if (!e2)
		return;
	make_key(k, k->daddr, k->dport, e2->addr, e2->port, key, POSITION_E3);
	e3 = find(k);
	if (e3 && same_addr(e3->addr, key->saddr) && e3->port == port)
		end_entry(k, e3, at_once);
	turn_e2(k, key->saddr, port);
	end_entry(k, e2, at_once);
}

/* Ends all other entries of the flow f, which the caller has claimed, under its key. */
__noinline int end_replies(const struct flow_key *key, struct flow *f, bool at_once)
{
	bool masqueraded;
	struct flow_key k;
	struct flow *e;
	__u16 port;

	if (!key || !f)
		return 0;
	port = key->sport;
	if (f->flags & FLOW_RESOURCED) {
		key_at(&k, key, POSITION_R1);
		e = find(&k);
		if (!e)
			return 0;
		port = e->port;
		end_entry(&k, e, at_once);
		make_key(&k, f->addr, f->port, key->saddr, port, key, POSITION_R4);
		e = find(&k);
		if (e)
			end_entry(&k, e, at_once);
	}
	make_key(&k, f->addr, f->port, key->saddr, port, key, POSITION_E4);
	e = find(&k);
	if (!e || !replies_to(e, key))
		return 0;
	masqueraded = e->flags & FLOW_MASQUERADE;
	end_entry(&k, e, at_once);
	if (masqueraded)
		end_masquerade(key, port, &k, at_once);
	return 0;
}

/*
 * First step of a flow's end: counted out at once, with all its entries dead; the sweeper deletes
 * them a second later. Claimed meanwhile, as only one CPU may undo what hangs on it. False:
 * somebody else changed its state.
 */
static __always_inline bool retire(const struct flow_key *key, struct flow *f, __u32 word)
{
	if (!change_state(f, word, STATE_CLAIMED))
		return false;
	end_replies(key, f, false);
	f->seen = now();
	*(volatile __u32 *)word_of(f) = with_state(word & ~HALF_OPEN, STATE_DEAD);
	return true;
}
