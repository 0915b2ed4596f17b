/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * From a backend's hash to its id. Hashes that have one place in backend_ids are a chain: that map
 * has the first one's id, each backend's record the next one's. The agent enters a record at the
 * beginning when it is complete. One that it takes out may be another backend's at
 * once, and so in another chain, while a walk is at it: so each step looks whether it is still in
 * its own, and begins anew if not.
 */
#pragma once

/* Elements of load, backends and backend_ids, and of stats those of one CPU. */
const volatile __u32 stats_ids = MAX_BACKENDS;

/*
 * An odd number that nobody knows before the agent starts. So no one can choose addresses for
 * backends that make a chain longer than a walk.
 */
const volatile __u64 ids_factor = 0x9E3779B97F4A7C15;

/* Where a hash's chain begins. maps/backends computes the same. */
static __always_inline __u32 place_of(__u64 hash)
{
	return (hash * ids_factor >> 32) * stats_ids >> 32;
}

#define LONGEST_CHAIN                                                                              \
	32 /* and beginnings. Of a million backends in as many chains the longest has 10 */

/*
 * Id of the backend that has the hash; 0: it is gone. A loop, as no frame is left for a function
 * where hints are mended.
 */
static __always_inline __u32 id_of(__u64 hash)
{
	__u32 place = place_of(hash), id = 0, i;

#pragma clang loop unroll(disable)
	for (i = 0; i < LONGEST_CHAIN; i++) {
		volatile struct backend *b;
		__u64 have;
		__u32 next;

		if (!id) {
			volatile __u32 *first = bpf_map_lookup_elem(&backend_ids, &place);

			id = first ? *first : 0;
			if (!id)
				return 0;
		}
		b = backend_at(id);
		if (!b)
			return 0;
		have = b->hash;
		if (have == hash)
			return id;
		next = b->next;
		if (place_of(have) != place || b->hash != have)
			id = 0;
		else if (next)
			id = next;
		else
			return 0;
	}
	return 0;
}
