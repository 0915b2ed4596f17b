/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The load of backends: how many flow entries each has, and whether they overload it. */
#pragma once

/* What an entry of this state is in the word of its backend's load. */
static __always_inline __u64 one_entry(__u8 state)
{
	return is_active(state) ? 1 : 1ull << 32;
}

/*
 * Adds to the load of a backend. Its number of entries as a whole says whether it is overloaded, as
 * in IPVS: from upper on, until there are fewer than lower.
 */
static __always_inline void add_load(__u32 id, __u64 n)
{
	struct backend_load *l = bpf_map_lookup_elem(&load, &id);
	struct backend *b = backend_at(id);
	__u32 all, lower;
	__u64 sum;

	if (!l || !b)
		return;
	sum = __sync_fetch_and_add((__u64 *)&l->active, n) + n;
	if (!b->upper)
		return;
	all = (__u32)sum + (__u32)(sum >> 32);
	lower = b->lower ? b->lower : b->upper - b->upper / 4;
	if (all >= b->upper)
		l->overloaded = 1;
	else if (all < lower)
		l->overloaded = 0;
}
