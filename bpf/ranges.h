/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Whose an address is, beside those of services: this machine's, or to be nobody's. */
#pragma once

/* Copies the key: Linux 6.1 takes none from what a global function is given. */
static __noinline bool is_assigned(const addr_t addr)
{
	addr_t k;
	__u32 *flags;

	copy_addr(k, addr);
	flags = bpf_map_lookup_elem(&node_addrs, k);
	return flags && *flags & NODE_ADDR_ASSIGNED;
}

/* Whether an address is of a range that VIPs are taken from. */
static __always_inline bool in_service_range(const addr_t addr)
{
	const __u64 *a = (const __u64 *)addr;
	struct service_ranges *r;
	__u32 zero = 0, i;

	r = bpf_map_lookup_elem(&service_ranges, &zero);
	if (!r || !r->count)
		return false;
	for (i = 0; i < MAX_SERVICE_RANGES && i < r->count; i++) {
		const __u64 *net = (const __u64 *)r->addr[i], *mask = (const __u64 *)r->mask[i];

		if (!((a[0] ^ net[0]) & mask[0]) && !((a[1] ^ net[1]) & mask[1]))
			return true;
	}
	return false;
}

/* To an address of such a range, that is no VIP: it would wander by the default route. */
static __noinline enum verdict unallocated(const struct packet *p)
{
	return is_others(p) || is_assigned(p->key.daddr) ? VERDICT_PASS : drop(DROP_UNALLOCATED);
}
