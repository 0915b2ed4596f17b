/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Frontends, and what becomes of packets to a VIP that are no flow's. */
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

static __always_inline struct vip *find_vip(const addr_t addr, __u16 port, __u8 proto)
{
	struct vip_key k = {.port = port, .proto = proto};

	copy_addr(k.addr, addr);
	return bpf_map_lookup_elem(&vips, &k);
}

/* The frontend that a packet is to: its port's, else the one for any port. */
static __always_inline struct vip *find_frontend(const struct packet *p)
{
	struct vip *v = find_vip(p->key.daddr, p->key.dport, p->key.proto);

	return v ? v : find_vip(p->key.daddr, 0, p->key.proto);
}

/*
 * A packet to a VIP's address that no service asked for. The machine's own addresses keep their
 * own services, ssh first; a VIP that is only routed here must not leak to the default route.
 */
static __always_inline enum verdict unwanted(const struct packet *p, enum drop_reason reason)
{
	if (!find_vip(p->key.daddr, 0, 0) || is_assigned(p->key.daddr))
		return VERDICT_PASS;
	if (reason == DROP_UNKNOWN_PORT)
		return refuse(reason, VERDICT_ICMP);
	return drop(reason);
}

/* What shows no ports, and is not ICMP. */
__noinline enum verdict portless(struct packet *p, enum parsed why)
{
	if (!p)
		return VERDICT_PASS;
	switch (why) {
	case PARSED_OTHER:
		return unwanted(p, DROP_PROTOCOL);
	case PARSED_EXTENSION:
		return unwanted(p, DROP_EXTENSION);
	default:
		return unwanted(p, DROP_MALFORMED);
	}
}

/* Set while others, behind these programs, still translate connections of before. */
volatile __u32 taking_over = 0;

/* TCP to a frontend that neither belongs to a flow nor begins one. */
static __always_inline enum verdict stray(const struct packet *p)
{
	if (taking_over || is_assigned(p->key.daddr))
		return VERDICT_PASS; /* they or the stack know the connection, or reset it */
	if (p->tcp_flags & TCP_RST || p->part != WHOLE)
		return drop(DROP_NO_FLOW); /* a reset is never answered, nor a part with one */
	return refuse(DROP_NO_FLOW, VERDICT_RST);
}
