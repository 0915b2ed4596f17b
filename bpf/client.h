/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Who the client of a new flow is, where its frontend asks for that. */
#pragma once

enum client {
	CLIENT_OUTSIDER,
	CLIENT_POD,  /* of this node */
	CLIENT_NODE, /* this node itself */
};

/* Whether pods of this node have such addresses. */
static __noinline bool is_pod_addr(const addr_t addr)
{
	struct prefix_key k = {.len = 128};

	copy_addr(k.addr, addr);
	return bpf_map_lookup_elem(&prefixes, &k) != NULL;
}

/* A pod shows by the device that it sends by, or by its address. */
static __noinline enum client client_of(struct __sk_buff *skb, const struct packet *p)
{
	__u32 ifindex = skb->ifindex;
	struct device *d = bpf_map_lookup_elem(&devices, &ifindex);

	if ((d && d->flags & DEVICE_POD) || is_pod_addr(p->key.saddr))
		return CLIENT_POD;
	return is_assigned(p->key.saddr) ? CLIENT_NODE : CLIENT_OUTSIDER;
}

/* What a frontend makes of its client: the pool that it picks from, whether it is masqueraded. */
struct terms {
	__u32 pool; /* enum pools */
	bool masquerade;
};

#define VIP_ASKS (VIP_MASQUERADE_OUTSIDERS | VIP_MASQUERADE_NODE | VIP_SHORT_CIRCUIT)

static __always_inline struct terms terms_of(struct __sk_buff *skb, const struct packet *p,
					     __u32 flags)
{
	struct terms t = {
		.pool = flags & VIP_LOCAL ? POOL_LOCAL : POOL_CLUSTER,
		.masquerade = flags & VIP_MASQUERADE,
	};
	enum client c;

	if (!(flags & VIP_ASKS))
		return t;
	c = client_of(skb, p);
	if (flags & VIP_SHORT_CIRCUIT && c != CLIENT_OUTSIDER)
		t.pool = POOL_CLUSTER;
	if ((flags & VIP_MASQUERADE_OUTSIDERS && c != CLIENT_POD) ||
	    (flags & VIP_MASQUERADE_NODE && c == CLIENT_NODE))
		t.masquerade = true;
	return t;
}

/* Whether a service's restricted frontends take flows of this client. */
static __noinline bool is_admitted(const addr_t client, __u32 service)
{
	struct source_key k = {.len = 32 + 128, .service = service};

	copy_addr(k.addr, client);
	return bpf_map_lookup_elem(&source_ranges, &k) != NULL;
}
