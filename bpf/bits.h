/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Bitmaps answer "none of ours" before any hash lookup. A set bit means "perhaps". Bits are set
 * by the agent before the entry they announce, and outlive it: flows of removed backends go on.
 * maps/bits computes the same in Go.
 */
#pragma once

/*
 * Of a hash the bits above these are the bit's index. The bitmaps of addresses have one size, which
 * grows with the configuration: among so many bits that are set few "perhaps" are wrong.
 */
const volatile __u32 bits_shift = 14;

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
 * Index of a bit. One multiplication is linear: two networks would have all their bits in common,
 * or none. Its halves together are not.
 */
static __always_inline __u32 bit_of(__u32 spread)
{
	__u64 x = spread * 0x9E3779B97F4A7C15;

	return (__u32)(x ^ x >> 32) >> bits_shift;
}

/* Index of the bit of an address. */
static __always_inline __u32 addr_bit(const addr_t addr)
{
	return bit_of(spread_addr(addr));
}

/* The same where the family is known: of IPv4 the first three words are always equal. */
static __always_inline __u32 end_bit(const addr_t addr, bool v4)
{
	const __u32 *w = (const __u32 *)addr;

	if (v4)
		return bit_of(bpf_htonl(0xffff) * 0xC2B2AE3Du + w[3]);
	return addr_bit(addr);
}

/* Index of the bit of a backend. */
static __always_inline __u32 backend_bit(const addr_t addr, __u16 port, __u8 proto)
{
	return bit_of(spread_addr(addr) + port + ((__u32)proto << 16));
}

/* Set while a backend has port 0: any port of its address may be in use as one. */
volatile __u32 any_port = 0;

static __always_inline bool bit_is_set(void *map, __u32 bit)
{
	__u32 word = bit >> 6;
	__u64 *w = bpf_map_lookup_elem(map, &word);

	return w && (*w >> (bit & 63) & 1);
}

/* The same for a backend's bit. One with port 0 has that of port 0. */
static __always_inline bool backend_is_set(void *map, const addr_t addr, __u16 port, __u8 proto)
{
	return bit_is_set(map, backend_bit(addr, port, proto)) ||
	       (any_port && bit_is_set(map, backend_bit(addr, 0, proto)));
}
