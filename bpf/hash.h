/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Rule HASH: the slot at a hash of the packet, as IPVS's sh, dh and mh have it. */
#pragma once

struct fallback {
	__u32 base, count, start, flags;
	__u32 best;
	__u32 hashed; /* address and port, for mh's */
};

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
