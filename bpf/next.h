/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The flow table while it grows: flows, and the larger flows_next. Where an entry is, flows says:
 * what is live there is there. Else, if it is MOVED or not there at all, flows_next has it, if
 * anything does. The agent's walk moves them (move.h); packets only follow. docs/packet-path.md
 * argues why no packet misses its flow, and no count is off.
 */
#pragma once

/* Whether there are two tables. Else all of this is dead code that the verifier removes. */
const volatile bool growing = false;

/*
 * Whether an entry was moved by now. What the caller wrote before is in the copy, or this is true:
 * an atomic operation is a barrier.
 */
static __always_inline bool is_moved(struct flow *f)
{
	return state_of(__sync_fetch_and_or(word_of(f), 0)) == STATE_MOVED;
}

/*
 * The entry of flows_next, dead ones included; left is what flows has of this key, and it is not
 * live. A copy that is not valid yet becomes so here, if flows says that it was moved: nobody waits
 * for who moves it. NULL: there is none.
 */
static __noinline struct flow *in_next(const struct flow_key *key, struct flow *left)
{
	bool moved = left && is_moved(left); /* before the lookup */
	struct flow *f;
	__u32 word;

	if (!key)
		return NULL;
	f = bpf_map_lookup_elem(&flows_next, key);
	if (!f)
		return NULL;
	word = load_word(f);
	if (!(word & STATE_PENDING))
		return f;
	if (!moved)
		return NULL;
	replace_word(f, word, word & ~STATE_PENDING);
	return f;
}

/* The entry of a key, dead ones included, but for those that grow with flows. */
static __always_inline struct flow *entry_of(const struct flow_key *key)
{
	struct flow *f = bpf_map_lookup_elem(&flows, key);
	__u32 word;

	if (!growing)
		return f;
	word = f ? load_word(f) : STATE_DEAD;
	return is_live(word) || state_of(word) == STATE_CLAIMED ? f : in_next(key, f);
}

/* Deletes an entry that the caller has claimed. */
static __always_inline void delete_flow(const struct flow_key *key)
{
	struct flow *f = growing ? bpf_map_lookup_elem(&flows, key) : NULL;

	if (growing && (!f || state_of(load_word(f)) != STATE_CLAIMED))
		bpf_map_delete_elem(&flows_next, key);
	else
		bpf_map_delete_elem(&flows, key);
}
