/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* How entries come into the flow table, also while it grows (next.h). */
#pragma once

/* A dead entry is nobody's: who claims it may overwrite it, so that nothing is deleted, and no
 * CPU's pointer comes to show another key.
 */
static __always_inline bool claim(struct flow *f)
{
	__u32 word = load_word(f);

	return state_of(word) == STATE_DEAD &&
	       replace_word(f, word, with_state(word, STATE_CLAIMED));
}

/* Overwrites a claimed entry; the word, which makes it live, last, and the hint with it. */
static __always_inline void fill(struct flow *f, struct flow *v)
{
	copy_addr(f->addr, v->addr);
	f->seen = v->seen;
	f->packets = v->packets;
	f->bytes = v->bytes;
	f->service_hash = v->service_hash;
	f->backend_hash = v->backend_hash;
	*(volatile __u64 *)counted_of(f) = *counted_of(v);
}

/* What hangs on a dead entry that will not be deleted by the sweeper. */
static __always_inline void bury(const struct flow_key *key, __u32 word)
{
	if (word >> 8 & FLOW_DIRECT && key->position == POSITION_E1)
		count_resourced(key, -1);
}

/* Makes v of a dead entry. False: it is not dead. */
static __always_inline bool revive(const struct flow_key *key, struct flow *f, struct flow *v)
{
	if (!claim(f))
		return false;
	bury(key, load_word(f));
	fill(f, v);
	return true;
}

static __always_inline __u32 growth_phase(void)
{
	__u32 zero = 0;
	struct growth_state *g = bpf_map_lookup_elem(&growth, &zero);

	return g ? *(volatile __u32 *)&g->phase : GROWTH_OLD;
}

/*
 * Whether the room in flows_next is for what waits in flows. New flows come as fast as room is made
 * for them, so that what waits would get none. By time, as the agent may die.
 */
static __always_inline bool is_reserved(void)
{
	__u32 zero = 0;
	struct growth_state *g = bpf_map_lookup_elem(&growth, &zero);

	return g && *(volatile __u64 *)&g->reserved_until > now64();
}

/*
 * Enters a key in flows_next that flows has not. One that is PENDING there is a copy of an entry
 * which ended before it was moved, so nobody's; if it was moved, it is taken.
 */
static __always_inline bool insert_next(const struct flow_key *key, struct flow *v)
{
	struct flow *f, *left;
	__u32 word;

	if (!is_reserved() && !bpf_map_update_elem(&flows_next, key, v, BPF_NOEXIST))
		return true;
	f = bpf_map_lookup_elem(&flows_next, key);
	if (!f)
		return false;
	word = load_word(f);
	if (!(word & STATE_PENDING))
		return revive(key, f, v);
	left = bpf_map_lookup_elem(&flows, key);
	if ((left && is_moved(left)) || !replace_word(f, word, with_state(word, STATE_CLAIMED)))
		return false;
	fill(f, v);
	return true;
}

/*
 * Marks a key in flows as one of flows_next. False: flows has a live entry, or no room. v is
 * scratch, and as before afterwards.
 */
static __always_inline bool mark_moved(const struct flow_key *key, struct flow *v)
{
	__u8 state = v->state;
	struct flow *f;
	__u32 word;
	long failed;

	v->state = STATE_MOVED;
	failed = bpf_map_update_elem(&flows, key, v, BPF_NOEXIST);
	v->state = state;
	if (!failed)
		return true;
	f = bpf_map_lookup_elem(&flows, key);
	if (!f)
		return false;
	word = load_word(f);
	if (state_of(word) == STATE_MOVED)
		return true;
	if (state_of(word) != STATE_DEAD || !replace_word(f, word, with_state(word, STATE_MOVED)))
		return false;
	bury(key, word);
	return true;
}

/*
 * insert while the table grows. Of two phases only neighbours are at work at one time, and any two
 * agree where a new key is decided on: OLD and BOTH in flows, BOTH and NEXT in flows_next.
 */
static __noinline bool insert_growing(const struct flow_key *key, struct flow *v)
{
	__u32 phase = growth_phase();
	struct flow *f;
	__u32 word;

	if (!key || !v)
		return false;
	if (phase == GROWTH_BOTH)
		return mark_moved(key, v) && insert_next(key, v);
	if (phase == GROWTH_OLD && !bpf_map_update_elem(&flows, key, v, BPF_NOEXIST))
		return true;
	f = bpf_map_lookup_elem(&flows, key);
	if (!f)
		return phase == GROWTH_NEXT && insert_next(key, v);
	word = load_word(f);
	if (phase == GROWTH_OLD && state_of(word) == STATE_DEAD)
		return revive(key, f, v);
	/* dead or moved, it stays so from here on */
	return (state_of(word) == STATE_MOVED || state_of(word) == STATE_DEAD) &&
	       insert_next(key, v);
}

/*
 * Enters v under a key that has no entry. False: it has, which may be a dead one, or the table is
 * full.
 */
static __always_inline bool insert(const struct flow_key *key, struct flow *v)
{
	if (growing)
		return insert_growing(key, v);
	return !bpf_map_update_elem(&flows, key, v, BPF_NOEXIST);
}
