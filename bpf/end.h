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
		bpf_map_delete_elem(&flows, key);
}

/* Ends an entry that is not a forward one, at once or in two steps. */
static __always_inline void end_entry(const struct flow_key *key, struct flow *e, bool at_once)
{
	if (at_once)
		delete_entry(key, e);
	else
		discard(e);
}

/* Ends E2 and E3 of the masqueraded flow whose E4 is under r. k is room: the stack is short here.
 */
static __always_inline void end_masquerade(const struct flow_key *r, struct flow_key *k,
					   bool at_once)
{
	struct flow *e2, *e3;

	answer_key(k, r, POSITION_E2);
	e2 = find(k);
	if (!e2)
		return;
	make_key(k, r->saddr, r->sport, e2->addr, e2->port, r, POSITION_E3);
	e3 = find(k);
	if (e3 && same_addr(e3->addr, r->daddr) && e3->port == r->dport)
		end_entry(k, e3, at_once);
	answer_key(k, r, POSITION_E2);
	end_entry(k, e2, at_once);
}

/* Ends all other entries of the flow f, which the caller has claimed, under its key. */
static __noinline void end_replies(const struct flow_key *key, struct flow *f, bool at_once)
{
	struct flow_key k, at;
	struct flow *e;

	if (!key || !f)
		return;
	reply_key(&k, key, f->addr, f->port);
	if (f->flags & FLOW_RESOURCED) {
		key_at(&at, key, POSITION_R1);
		e = find(&at);
		if (!e)
			return;
		k.dport = e->port;
		end_entry(&at, e, at_once);
		key_at(&at, &k, POSITION_R4);
		e = find(&at);
		if (e)
			end_entry(&at, e, at_once);
	}
	e = find(&k);
	if (!e || !replies_to(e, key))
		return;
	if (e->flags & FLOW_MASQUERADE)
		end_masquerade(&k, &at, at_once);
	end_entry(&k, e, at_once);
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
