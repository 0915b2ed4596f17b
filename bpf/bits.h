/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Bitmaps answer "none of ours" before any hash lookup. A set bit means "perhaps". Bits are set
 * by the agent before the entry they announce, and outlive it: flows of removed backends go on.
 * maps/bits computes the same in Go.
 */
#pragma once

/*
 * A mark is a hash: the bits above these say which word, the lowest twelve which two bits of it, so
 * the second bit takes no line more. The bitmaps of addresses have one size, which grows with the
 * configuration: among so many bits that are set few "perhaps" are wrong.
 */
const volatile __u32 bits_shift = 20;

/* 2^32 divided by the golden ratio, as the kernel's hash_32; sh needs the same. */
#define GOLDEN_32 0x61C88647u

/* Exclusive or of the four words as they lie in memory. */
static __always_inline __u32 fold_addr(const addr_t addr)
{
	const __u32 *w = (const __u32 *)addr;

	return w[0] ^ w[1] ^ w[2] ^ w[3];
}

/*
 * The words weighed apart, as addresses of one network plan differ in few bits, and in the same
 * ones: their exclusive or would often be equal. Odd numbers with their bits well mixed; IPv4 pays
 * nothing, as all but the last word are the same.
 */
static __always_inline __u32 spread_addr(const addr_t addr)
{
	const __u32 *w = (const __u32 *)addr;

	return w[0] * 0x9E3779B1u + w[1] * 0x85EBCA77u + w[2] * 0xC2B2AE3Du + w[3];
}

/*
 * One multiplication is linear: two networks would have all their bits in common, or none. Its
 * halves together are not.
 */
static __always_inline __u32 mark_of(__u32 spread)
{
	__u64 x = spread * 0x9E3779B97F4A7C15;

	return x ^ x >> 32;
}

/* The mark of an address. */
static __always_inline __u32 addr_mark(const addr_t addr)
{
	return mark_of(spread_addr(addr));
}

/* The same where the family is known: of IPv4 the first three words are always equal. */
static __always_inline __u32 end_mark(const addr_t addr, bool v4)
{
	const __u32 *w = (const __u32 *)addr;

	if (v4)
		return mark_of(bpf_htonl(0xffff) * 0xC2B2AE3Du + w[3]);
	return addr_mark(addr);
}

/* The mark of a backend. */
static __always_inline __u32 backend_mark(const addr_t addr, __u16 port, __u8 proto)
{
	return mark_of(spread_addr(addr) + port + ((__u32)proto << 16));
}

/* Set while a backend has port 0: any port of its address may be in use as one. */
volatile __u32 any_port = 0;

/* Whether a word has both bits of a mark. No branch: it would be guessed wrong for others. */
static __always_inline bool has_mark(__u64 word, __u32 mark)
{
	return word >> (mark & 63) & word >> (mark >> 6 & 63) & 1;
}

/* Sets both, where others do so at the same time; most often they are set. */
static __always_inline void add_mark(__u64 *word, __u32 mark)
{
	if (!has_mark(*word, mark))
		__sync_fetch_and_or(word, 1ull << (mark & 63) | 1ull << (mark >> 6 & 63));
}

static __always_inline bool is_marked(void *map, __u32 mark)
{
	__u32 word = mark >> bits_shift;
	__u64 *w = bpf_map_lookup_elem(map, &word);

	return w && has_mark(*w, mark);
}

/* The same for a backend. One with port 0 has the mark of port 0. */
static __always_inline bool backend_is_marked(void *map, const addr_t addr, __u16 port, __u8 proto)
{
	return is_marked(map, backend_mark(addr, port, proto)) ||
	       (any_port && is_marked(map, backend_mark(addr, 0, proto)));
}

/* The word of a mark in direct_bits. */
static __always_inline __u64 *direct_word(__u32 mark)
{
	__u32 word = mark >> DIRECT_SHIFT;

	return bpf_map_lookup_elem(&direct_bits, &word);
}

/* Ports have a bit each. */
static __always_inline bool may_be_node_port(__u16 port)
{
	__u32 word = port >> 6;
	__u64 *w = bpf_map_lookup_elem(&node_port_bits, &word);

	return w && (*w >> (port & 63) & 1);
}
