/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * From a backend's hash to its id. Hashes that are equal modulo the elements of backend_ids are a
 * chain: that map has the first one's id, each backend's record the next one's. The agent enters a
 * record at the beginning when it is complete. One that it takes out may be another backend's at
 * once, and so in another chain, while a walk is at it: so each step looks whether it is still in
 * its own, and begins anew if not.
 */
#pragma once

/* Elements of load, backends and backend_ids, and of stats those of one CPU. */
const volatile __u32 stats_ids = MAX_BACKENDS;

#define LONGEST_CHAIN                                                                              \
	32 /* and beginnings. Of a million backends in as many chains the longest has 10 */

/*
 * Id of the backend that has the hash; 0: it is gone. A loop, as no frame is left for a function
 * where hints are mended.
 */
static __always_inline __u32 id_of(__u64 hash)
{
	__u32 place = hash % stats_ids, id = 0, i;

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
		if (have % stats_ids != place || b->hash != have)
			id = 0;
		else if (next)
			id = next;
		else
			return 0;
	}
	return 0;
}
