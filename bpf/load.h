/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The load of backends: how many flow entries each has, and whether they overload it. */
#pragma once

/* What an entry of this state is in the word of its backend's load. */
static __always_inline __u64 one_entry(__u8 state)
{
	return is_active(state) ? 1 : 1ull << 32;
}

#define JUDGEMENTS 3 /* of one change: more are needed if other CPUs change the load meanwhile */

/*
 * Says whether a backend is overloaded, as in IPVS: from upper entries on, until there are fewer
 * than lower. Who writes looks again: two CPUs that cross a threshold in opposite directions may
 * write in another order than they counted. The exchange is a barrier.
 */
static __always_inline void judge(struct backend_load *l, const struct backend *b)
{
	__u64 upper = b->upper, lower = b->lower ? b->lower : upper - upper / 4;
	__u32 i;

	for (i = 0; i < JUDGEMENTS; i++) {
		__u64 sum = *(volatile __u64 *)&l->active;
		__u64 all = (__u32)((__u32)sum + (__u32)(sum >> 32));
		__u32 is = *(volatile __u32 *)&l->overloaded, be;

		/* all >= upper || (is && all >= lower), without branches: the verifier walks each
		 */
		be = (upper - 1 - all) >> 63 | (is & (lower - 1 - all) >> 63);
		if (be == is)
			return;
		__sync_lock_test_and_set(&l->overloaded, be);
	}
}

/* Adds to the load of a backend. */
static __always_inline void add_load(__u32 id, __u64 n)
{
	struct backend_load *l = bpf_map_lookup_elem(&load, &id);
	struct backend *b = backend_at(id);

	if (!l || !b)
		return;
	__sync_fetch_and_add((__u64 *)&l->active, n);
	if (b->upper)
		judge(l, b);
}
