/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Frontends, and what becomes of packets to a VIP that are no flow's. */
#pragma once

static __always_inline struct vip *find_vip(const addr_t addr, __u16 port, __u8 proto)
{
	struct vip_key k __attribute__((aligned(8)));

	set_addr(k.addr, addr);
	*(narrow *)&k.port = port | (__u32)proto << 16;
	return bpf_map_lookup_elem(&vips, &k);
}

/* Copies the key, as is_assigned does. */
static __noinline bool serves_node_ports(const addr_t addr)
{
	addr_t k;
	__u32 *flags;

	copy_addr(k, addr);
	flags = bpf_map_lookup_elem(&node_addrs, k);
	return flags && *flags & NODE_ADDR_PORTS;
}

/* 127.0.0.0/8 and ::1: each namespace has its own. */
static __always_inline bool is_loopback(const addr_t addr)
{
	const __u32 *a = (const __u32 *)addr;

	if (a[0] || a[1])
		return false;
	return (a[2] == bpf_htonl(0xffff) && addr[12] == 127) || (!a[2] && a[3] == bpf_htonl(1));
}

/* The node port of this number, wherever it is served. */
static __always_inline struct vip *find_port(__u16 port, __u8 proto, bool v4)
{
	struct vip_key k = {.port = port, .proto = proto};

	if (v4)
		((__u32 *)k.addr)[2] = bpf_htonl(0xffff);
	return bpf_map_lookup_elem(&vips, &k);
}

/* The node port that a packet is to. Those at loopback addresses are for sockets alone. */
static __noinline struct vip *find_node_port(const struct packet *p)
{
	if (!may_be_node_port(p->key.dport) || is_loopback(p->key.daddr) ||
	    !serves_node_ports(p->key.daddr))
		return NULL;
	return find_port(p->key.dport, p->key.proto, p->v4);
}

/* The frontend that a packet is to: its port's, else the one for any port, else a node port. */
static __always_inline struct vip *find_frontend(const struct packet *p)
{
	struct vip *v = find_vip(p->key.daddr, p->key.dport, p->key.proto);

	if (!v)
		v = find_vip(p->key.daddr, 0, p->key.proto);
	return v ? v : find_node_port(p);
}

/*
 * A packet to a VIP's address that no service asked for. The machine's own addresses keep their
 * own services, ssh first; a VIP that is only routed here must not leak to the default route.
 */
static __always_inline enum verdict unwanted(const struct packet *p, enum drop_reason reason)
{
	if (!find_vip(p->key.daddr, 0, 0))
		return in_service_range(p->key.daddr) ? unallocated(p) : VERDICT_PASS;
	if (is_assigned(p->key.daddr))
		return VERDICT_PASS;
	if (reason == DROP_UNKNOWN_PORT)
		return refuse(reason, VERDICT_ICMP);
	return drop(reason);
}

/* What is no flow's and no frontend's, to an address that may be a VIP: ping is the stack's. */
static __noinline enum verdict leftover(const struct packet *p)
{
	if (!in_service_range(p->key.daddr) || find_vip(p->key.daddr, 0, 0))
		return VERDICT_PASS;
	return unallocated(p);
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

/* Whether the stack has the connection of a segment. */
static __noinline bool has_socket(struct __sk_buff *skb, const struct packet *p)
{
	struct bpf_sock_tuple t = {};
	struct bpf_sock *sk;
	bool found;

	if (!p)
		return false;
	if (p->v4) {
		t.ipv4.saddr = ((const __u32 *)p->key.saddr)[3];
		t.ipv4.daddr = ((const __u32 *)p->key.daddr)[3];
		t.ipv4.sport = bpf_htons(p->key.sport);
		t.ipv4.dport = bpf_htons(p->key.dport);
		sk = bpf_skc_lookup_tcp(skb, &t, sizeof(t.ipv4), BPF_F_CURRENT_NETNS, 0);
	} else {
		copy_addr((__u8 *)t.ipv6.saddr, p->key.saddr);
		copy_addr((__u8 *)t.ipv6.daddr, p->key.daddr);
		t.ipv6.sport = bpf_htons(p->key.sport);
		t.ipv6.dport = bpf_htons(p->key.dport);
		sk = bpf_skc_lookup_tcp(skb, &t, sizeof(t.ipv6), BPF_F_CURRENT_NETNS, 0);
	}
	if (!sk)
		return false;
	found = sk->state != BPF_TCP_LISTEN; /* who listens knows nothing of it */
	bpf_sk_release(sk);
	return found;
}

/*
 * Whether TCP of no flow, that is no SYN, goes on where its hash leads: the connection was another
 * director's, or silent for too long. A reset needs no way on, a later fragment shows no flags, and
 * what the stack has is the stack's. Nor does one that was just ended go on at another backend, nor
 * one that others may still have.
 */
static __noinline bool resumes(struct __sk_buff *skb, const struct packet *p, __u32 service)
{
	struct service *svc = bpf_map_lookup_elem(&services, &service);

	/* both pools have the service's rule */
	if (!p || !svc || taking_over || (svc->pool >> 56 & 15) != RULE_HASH || p->part == LATER ||
	    p->ended || (p->tcp_flags & (TCP_SYN | TCP_RST | TCP_ACK)) != TCP_ACK)
		return false;
	return !is_assigned(p->key.daddr) || !has_socket(skb, p);
}

/* To a frontend, of no flow, and not what begins one. */
static __always_inline enum verdict stray(const struct packet *p)
{
	if ((taking_over && !p->ended) || is_assigned(p->key.daddr))
		return VERDICT_PASS; /* they or the stack know the connection, or reset it */
	if (p->tcp_flags & TCP_RST || p->part != WHOLE)
		return drop(DROP_NO_FLOW); /* a reset is never answered, nor a part with one */
	return refuse(DROP_NO_FLOW, VERDICT_RST);
}
