/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Picking a backend: the three rules that every scheduler compiles to. */
#pragma once

static __always_inline struct backend *backend_at(__u32 id)
{
	return bpf_map_lookup_elem(&backends, &id);
}

/* Whether new flows may go to it. */
static __always_inline bool serves(const struct backend *b)
{
	return b->state == BACKEND_ACTIVE && b->weight;
}

/* Backend id in slot i of the run at base; 0: none. */
static __always_inline __u32 slot(__u32 base, __u32 i)
{
	__u32 word = base + 1 + (i >> 1);
	__u64 *pair = bpf_map_lookup_elem(&slots, &word);

	if (!pair)
		return 0;
	return i & 1 ? *pair >> 32 : (__u32)*pair;
}

static __always_inline __u32 pick_cursor(__u32 base, __u32 count)
{
	__u64 *cursor = bpf_map_lookup_elem(&slots, &base);

	if (!cursor)
		return 0;
	return slot(base, __sync_fetch_and_add(cursor, 1) % count);
}

/* As one 32-bit number: IPv4 in host order, IPv6 the exclusive or of its words in host order. */
static __always_inline __u32 hashed_addr(const addr_t addr)
{
	const __u32 *w = (const __u32 *)addr;

	if (!w[0] && !w[1] && w[2] == bpf_htonl(0xffff))
		return bpf_ntohl(w[3]);
	return bpf_ntohl(fold_addr(addr));
}

struct scan {
	__u32 base, count, start, flags;
	__u32 best;
	__u64 cost;   /* of best */
	__u32 weight; /* of best */
};

/* One step of a fallback: the slot that IPVS's sh would try. */
static long fallback_step(__u32 off, struct scan *s)
{
	__u32 id = slot(s->base, ((off + s->start) % s->count + s->start) % s->count);
	struct backend *b = backend_at(id);

	if (!b || !serves(b))
		return 0;
	s->best = id;
	return 1;
}

static __always_inline __u32 pick_hash(const struct flow_key *key, __u32 base, __u32 count,
				       __u32 flags)
{
	__u32 addr = hashed_addr(flags & RULE_HASH_DEST ? key->daddr : key->saddr);
	__u32 port = flags & RULE_HASH_PORT ? key->sport : 0;
	struct scan s = {.base = base, .count = count};
	struct backend *b;
	__u32 id;

	s.start = (__u64)((addr + port) * GOLDEN_32) * count >> 32;
	id = slot(base, s.start);
	b = backend_at(id);
	if (b && serves(b))
		return id;
	if (flags & RULE_HASH_FALLBACK)
		bpf_loop(count, fallback_step, &s, 0);
	return s.best;
}

/* cost(best) * weight(this) > cost(this) * weight(best), so that ties stay with the earlier. */
static long least_step(__u32 i, struct scan *s)
{
	__u32 id = slot(s->base, i), weight = 1;
	struct backend *b = backend_at(id);
	struct backend_load *l;
	__u64 cost;

	if (!b || !serves(b))
		return 0;
	l = bpf_map_lookup_elem(&load, &id);
	if (!l)
		return 0;
	if (s->flags & RULE_LEAST_IDLE && !l->active) {
		s->best = id;
		return 1;
	}
	if (s->flags & RULE_LEAST_EXPECTED)
		cost = (__u64)l->active + 1;
	else
		cost = ((__u64)l->active << 8) + l->active + l->inactive;
	if (s->flags & RULE_LEAST_WEIGHTED)
		weight = b->weight;
	if (!s->best || s->cost * weight > cost * s->weight) {
		s->best = id;
		s->cost = cost;
		s->weight = weight;
	}
	return 0;
}

/*
 * 0, and the verifier does not know it. Linux before 6.7 checks a callback of bpf_loop with what is
 * on the stack before its first call only, and removes what that makes unreachable.
 */
volatile __u32 unknown_zero = 0;

static __always_inline __u32 pick_least(__u32 base, __u32 count, __u32 flags)
{
	struct scan s = {.base = base, .count = count, .flags = flags};

	s.best = s.weight = unknown_zero;
	s.cost = unknown_zero;
	bpf_loop(count < MAX_LEAST ? count : MAX_LEAST, least_step, &s, 0);
	return s.best;
}

/* Id of the backend for a new flow; 0: nobody can take it. */
static __noinline __u32 pick(const struct flow_key *key, __u64 pool)
{
	__u32 base = (__u32)pool, count = pool >> 32 & 0xffffff;
	__u32 flags = pool >> 61;

	if (!key || !count)
		return 0;
	switch (pool >> 56 & 31) {
	case RULE_CURSOR:
		return pick_cursor(base, count);
	case RULE_HASH:
		return pick_hash(key, base, count, flags);
	case RULE_LEAST:
		return pick_least(base, count, flags);
	}
	return 0;
}
