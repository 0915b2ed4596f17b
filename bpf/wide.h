/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What is put together in memory to be looked up or inserted is written in words as large as those
 * that the kernel reads there. A read that spans two writes must wait until both have left the
 * CPU's store buffer, and so have all before them: also those to an entry that is in no cache.
 */
#pragma once

typedef __u64 __attribute__((may_alias)) wide;
typedef __u32 __attribute__((may_alias)) narrow;

/* Copies to where 8 bytes are aligned. */
static __always_inline void set_addr(addr_t to, const void *from)
{
	const wide *f = from;
	wide *t = (wide *)to;

	t[0] = f[0];
	t[1] = f[1];
}

static __always_inline void map_v4(addr_t to, __be32 addr)
{
	wide *t = (wide *)to;

	t[0] = 0;
	t[1] = (__u64)addr << 32 | bpf_htonl(0xffff);
}

/* All of a key but the addresses. */
static __always_inline void set_ports(struct flow_key *k, __u16 sport, __u16 dport, __u8 proto,
				      enum position position)
{
	*(wide *)&k->sport =
		sport | (__u64)dport << 16 | (__u64)proto << 32 | (__u64)position << 40;
}

/* The key as a position has it. */
static __always_inline void set_position(struct flow_key *k, enum position position)
{
	set_ports(k, k->sport, k->dport, k->proto, position);
}
