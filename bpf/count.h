/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Per-CPU counters: no atomics on the path of every packet. Where the hooks of sockets count too,
 * which may be interrupted, there are.
 */
#pragma once

static __always_inline void count_drop(__u32 reason)
{
	__u64 *n = bpf_map_lookup_elem(&drops, &reason);

	if (n)
		__sync_fetch_and_add(n, 1);
}

/*
 * This CPU's counters of a backend. An id is one of backends, which has as many elements as load,
 * so it is below stats_ids (ids.h).
 */
static __always_inline struct backend_stats *counters(__u32 id)
{
	__u32 at = bpf_get_smp_processor_id() * stats_ids + id;

	return bpf_map_lookup_elem(&stats, &at);
}

static __always_inline void count_connection(__u32 id)
{
	struct backend_stats *s = counters(id);

	if (s)
		__sync_fetch_and_add(&s->connections, 1);
}

static __always_inline void count_in(__u32 id, __u32 bytes)
{
	struct backend_stats *s = counters(id);

	if (s) {
		s->in_packets++;
		s->in_bytes += bytes;
	}
}

static __always_inline void count_out(__u32 id, __u32 bytes)
{
	struct backend_stats *s = counters(id);

	if (s) {
		s->out_packets++;
		s->out_bytes += bytes;
	}
}

/* The entry's own counters and its age. Not atomic: CPUs that share a flow may lose a packet. */
static __always_inline void touch(struct flow *f, __u32 bytes)
{
	set_seen(f, now(), f->packets + 1);
	f->bytes += bytes;
}
