/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Picking a backend: the three rules that every scheduler compiles to. A run in slots is a header
 * of two words and then, by rule,
 *
 *   CURSOR  backend ids, two a word, the first in the low half. The header is the cursor, and
 *           {last pass:32, failed:32}, which only wrr needs.
 *   HASH    the same, and SLOT_CLOSED beside those that take nothing new; for mh they are the
 *           backends, to which a table of 16-bit indices leads, four a word, that equal services
 *           share. The header's first word is where it is.
 *   LEAST   a word for each backend: {id:32, weight:16}.
 *
 * A run says all that a pick needs to know but the load: a backend's record may be newer than the
 * run that a packet picks from, and a pick is of one set, not of parts of two.
 */
#pragma once

static __always_inline struct backend *backend_at(__u32 id)
{
	return bpf_map_lookup_elem(&backends, &id);
}

static __always_inline __u64 *word_at(__u32 at)
{
	return bpf_map_lookup_elem(&slots, &at);
}

/* Whether new flows may go to the backend of a slot. */
static __always_inline bool is_usable(__u32 slot)
{
	struct backend *b = slot & SLOT_CLOSED ? NULL : backend_at(slot);
	struct backend_load *l;

	if (!slot || !b)
		return false;
	if (!b->upper)
		return true;
	l = bpf_map_lookup_elem(&load, &slot);
	return l && !l->overloaded;
}

/* What is in slot i of the run at base; 0: nothing. */
static __always_inline __u32 slot(__u32 base, __u32 i)
{
	__u64 *pair = word_at(base + HEADER_WORDS + (i >> 1));

	if (!pair)
		return 0;
	return i & 1 ? *pair >> 32 : (__u32)*pair;
}

/*
 * What callbacks of bpf_loop look for, each as small as can be: on Linux 6.1 all frames from the
 * hook to the callback are 512 bytes.
 */
struct walk {
	__u32 base, count, start;
	__u32 best;
	__u32 steps; /* to best, from start */
};

struct fallback {
	__u32 base, count, start, flags;
	__u32 best;
	__u32 hashed; /* address and port, for mh's */
};

struct scan {
	__u32 base, end, flags;
	__u32 best;
	__u32 weight; /* of best */
	__u64 cost;   /* of best */
};

/*
 * 0, and the verifier does not know it. Linux before 6.7 checks a callback of bpf_loop with what is
 * on the stack before its first call only, and removes what that makes unreachable.
 */
volatile __u32 unknown_zero = 0;

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

/* As one 32-bit number: IPv4 in host order, IPv6 the exclusive or of its words in host order. */
static __always_inline __u32 hashed_addr(const addr_t addr)
{
	const __u32 *w = (const __u32 *)addr;

	if (!w[0] && !w[1] && w[2] == bpf_htonl(0xffff))
		return bpf_ntohl(w[3]);
	return bpf_ntohl(fold_addr(addr));
}

static __always_inline __u64 rotate(__u64 x, __u32 n)
{
	return x << n | x >> (64 - n);
}

#define SIP_ROUND(v)                                                                               \
	do {                                                                                       \
		v[0] += v[1];                                                                      \
		v[2] += v[3];                                                                      \
		v[1] = rotate(v[1], 13) ^ v[0];                                                    \
		v[3] = rotate(v[3], 16) ^ v[2];                                                    \
		v[0] = rotate(v[0], 32);                                                           \
		v[2] += v[1];                                                                      \
		v[0] += v[3];                                                                      \
		v[1] = rotate(v[1], 17) ^ v[2];                                                    \
		v[3] = rotate(v[3], 21) ^ v[0];                                                    \
		v[2] = rotate(v[2], 32);                                                           \
	} while (0)

#define MH_KEY 2654435761ull /* both halves of the key with which IPVS's mh looks up */

/*
 * SipHash-1-3 of four bytes, the low 32 bits (Aumasson and Bernstein, "SipHash: a fast short-input
 * PRF"): one round for the one block, which has the length in its top byte, three at the end.
 */
static __always_inline __u32 sip_hash(__u32 message)
{
	__u64 v[4] = {
		MH_KEY ^ 0x736f6d6570736575ull,
		MH_KEY ^ 0x646f72616e646f6dull,
		MH_KEY ^ 0x6c7967656e657261ull,
		MH_KEY ^ 0x7465646279746573ull,
	};
	__u64 block = 4ull << 56 | message;

	v[3] ^= block;
	SIP_ROUND(v);
	v[0] ^= block;
	v[2] ^= 0xff;
	SIP_ROUND(v);
	SIP_ROUND(v);
	SIP_ROUND(v);
	return v[0] ^ v[1] ^ v[2] ^ v[3];
}

/* The slot to which place i of mh's table leads, of a run at base; 0: none. */
static __always_inline __u32 table_slot(__u32 base, __u32 i)
{
	__u64 *table = word_at(base), *four;

	if (!table)
		return 0;
	four = word_at((__u32)*table + (i >> 2));
	return four ? slot(base, *four >> 16 * (i & 3) & 0xffff) : 0;
}

/* One step of a fallback: the slot that IPVS's sh or mh would try. */
static long fallback_step(__u32 off, struct fallback *s)
{
	__u32 at = (off + s->start) % s->count, id;

	if (s->flags & RULE_HASH_SIP)
		id = table_slot(s->base, sip_hash(at + s->hashed) % s->count);
	else
		id = slot(s->base, (at + s->start) % s->count);
	if (!is_usable(id))
		return 0;
	s->best = id;
	return 1;
}

static __noinline __u32 pick_fallback(__u32 base, __u32 count, __u32 flags, __u32 start,
				      __u32 hashed)
{
	struct fallback s = {.base = base, .count = count, .start = start, .flags = flags};

	s.hashed = hashed;
	s.best = unknown_zero;
	bpf_loop(count, fallback_step, &s, 0);
	return s.best;
}

static __always_inline __u32 pick_hash(const struct flow_key *key, __u32 base, __u32 count,
				       __u32 flags)
{
	__u32 hashed = hashed_addr(flags & RULE_HASH_DEST ? key->daddr : key->saddr);
	__u32 start, id;

	if (flags & RULE_HASH_PORT)
		hashed += key->sport;
	if (flags & RULE_HASH_SIP) {
		start = sip_hash(hashed) % count;
		id = table_slot(base, start);
	} else {
		start = (__u64)(hashed * GOLDEN_32) * count >> 32;
		id = slot(base, start);
	}
	if (is_usable(id))
		return id;
	return flags & RULE_HASH_FALLBACK ? pick_fallback(base, count, flags, start, hashed) : 0;
}

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
		if (!l || l->overloaded)
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
