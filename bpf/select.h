/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Picking a backend: rules CURSOR and LEAST, and which of the three it is. */
#pragma once

struct walk {
	__u32 base, count, start;
	__u32 best;
	__u32 steps; /* to best, from start */
};

#define NEAR 64 /* slots in which most picks that must look further end */

static long cursor_step(__u32 i, struct walk *s)
{
	__u32 id = slot(s->base, (s->start + i) % s->count);

	if (!is_usable(id))
		return 0;
	s->best = id;
	s->steps = i;
	return 1;
}

/*
 * The pick at cursor n met a backend that is not usable: on to one that is, and the cursor behind
 * it. If there is none the cursor is as it was for rr. wrr has walked: it stands at the top of its
 * cycle (failed says so), but not if it began in the last pass, or before the first; then it ends
 * where it began. (IPVS: docs/schedulers.md.)
 */
static __noinline __u32 pick_further(__u32 base, __u32 count, __u32 flags, __u64 n)
{
	struct walk s = {.base = base, .count = count};
	__u64 *cursor = word_at(base), *passes = word_at(base + 1);
	__u32 at, last;

	if (!cursor || !passes || !count)
		return 0;
	at = n % count;
	last = (__u32)*passes;
	s.start = at + 1;
	s.best = s.steps = unknown_zero;
	bpf_loop(count - 1 < NEAR ? count - 1 : NEAR, cursor_step, &s, 0);
	if (!s.best && count - 1 > NEAR) {
		/* the last pass has all there are: a cycle may be long */
		s.start = last;
		bpf_loop(count - last, cursor_step, &s, 0);
		s.start = at + 1;
		if (s.best)
			bpf_loop(count - 1, cursor_step, &s, 0);
	}
	if (s.best) {
		__sync_fetch_and_add(cursor, s.steps + 1);
		return s.best;
	}
	if (!(flags & RULE_CURSOR_PASSES) || !at || at > last) {
		__sync_fetch_and_add(cursor, -1);
		return 0;
	}
	n += count - at;
	__sync_fetch_and_add(cursor, count - at - 1);
	*(volatile __u32 *)((void *)passes + 4) = n;
	return 0;
}

static __always_inline __u32 pick_cursor(__u32 base, __u32 count, __u32 flags)
{
	__u64 *cursor = word_at(base), n;
	__u32 id;

	if (!cursor)
		return 0;
	n = __sync_fetch_and_add(cursor, 1);
	id = slot(base, n % count);
	return is_usable(id) ? id : pick_further(base, count, flags, n);
}

struct scan {
	__u32 base, end, flags;
	__u32 best;
	__u32 weight; /* of best */
	__u64 cost;   /* of best */
};

#define STRIDE 8 /* backends that one call back looks at: calls cost as much as they do */

/*
 * Looks at the next STRIDE backends. A later one is better only if cost(best) * weight(this) >
 * cost(this) * weight(best), so that ties stay with the earlier.
 */
static long least_step(__u32 i, struct scan *s)
{
	__u32 at = s->base + i * STRIDE, best = s->best, best_weight = s->weight, n;
	__u64 best_cost = s->cost;

	for (n = 0; n < STRIDE; n++) {
		__u64 *word = word_at(at + n), cost;
		__u32 id, weight = 1;
		struct backend_load *l;

		if (!word || at + n >= s->end)
			break;
		id = *word;
		l = bpf_map_lookup_elem(&load, &id);
		if (!l || (l->overloaded && is_limited(id)))
			continue;
		if (s->flags & RULE_LEAST_IDLE && !l->active) {
			s->best = id;
			return 1;
		}
		if (s->flags & RULE_LEAST_EXPECTED)
			cost = (__u64)l->active + 1;
		else
			cost = ((__u64)l->active << 8) + l->active + l->inactive;
		if (s->flags & RULE_LEAST_WEIGHTED)
			weight = *word >> 32;
		if (!best || best_cost * weight > cost * best_weight) {
			best = id;
			best_cost = cost;
			best_weight = weight;
		}
	}
	s->best = best;
	s->cost = best_cost;
	s->weight = best_weight;
	return 0;
}

static __noinline __u32 pick_least(__u32 base, __u32 count, __u32 flags)
{
	struct scan s = {.base = base + HEADER_WORDS, .flags = flags};

	if (count > MAX_LEAST)
		count = MAX_LEAST;
	s.end = s.base + count;
	s.best = s.weight = unknown_zero;
	s.cost = unknown_zero;
	bpf_loop((count + STRIDE - 1) / STRIDE, least_step, &s, 0);
	return s.best;
}

/*
 * The published word of one of a service's pools. While a frontend begins or ceases to pick from
 * the local one it may not be there: then the other is right.
 */
static __always_inline __u64 pool_word(const struct service *svc, __u32 pool)
{
	__u64 word = pool == POOL_LOCAL ? *(const volatile __u64 *)&svc->local : 0;

	return word ? word : *(const volatile __u64 *)&svc->pool;
}

/* Id of the backend for a new flow; 0: nobody can take it. */
static __always_inline __u32 pick(const struct flow_key *key, __u64 pool)
{
	__u32 base = (__u32)pool, count = pool >> 32 & 0xffffff;
	__u32 flags = pool >> 60;

	if (!count)
		return 0;
	switch (pool >> 56 & 15) {
	case RULE_CURSOR:
		return pick_cursor(base, count, flags);
	case RULE_HASH:
		return pick_hash(key, base, count, flags);
	case RULE_LEAST:
		return pick_least(base, count, flags);
	}
	return 0;
}
