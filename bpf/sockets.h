/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Sockets: what a process connects or sends to a VIP is led to a backend before there is a packet,
 * and nothing is left to be done for packets. The pick is that of packets. Where it needs what only
 * a packet has, a pod's socket is left alone: its packets meet the devices' programs. So is what is
 * to be dropped.
 *
 * The hooks run in the process, holding the socket's lock; others of the same CPU may run in
 * between, so nothing here is per CPU, and what is counted is counted by atomics.
 */
#pragma once

#define ECONNREFUSED 111
#define ENOMEM	     12

/* Cookie of the network namespace that the programs of devices serve: this machine's own. */
const volatile __u64 host_netns = 0;
/* Whether only sockets of that namespace are led. */
const volatile bool host_sockets_only = false;

/*
 * Addresses with which this machine would ask a VIP. For its own sockets that are not bound: which
 * address they get is decided when it is known where they go.
 */
volatile struct {
	addr_t v4, v6;
} host_source;

enum reach {
	REACH_ALONE, /* it goes where it wants to */
	REACH_BACKEND,
	REACH_REFUSED,
};

/* Whether it may be to a frontend. */
static __always_inline bool concerns(const struct packet *p)
{
	__u32 mark = addr_mark(p->key.daddr);

	if (p->key.proto != IPPROTO_TCP && p->key.proto != IPPROTO_UDP)
		return false;
	return is_marked(&vip_bits, mark) ||
	       (may_be_node_port(p->key.dport) &&
		(is_marked(&peer_bits, mark) || is_loopback(p->key.daddr)));
}

/* The rest of IPv4's loopback network serves what 127.0.0.1 does. */
static __always_inline struct vip *find_loopback(const struct packet *p)
{
	addr_t first;

	if (!may_be_node_port(p->key.dport))
		return NULL;
	copy_addr(first, p->key.daddr);
	if (p->v4)
		set_v4(first, bpf_htonl(0x7f000001));
	return serves_node_ports(first) ? find_port(p->key.dport, p->key.proto, p->v4) : NULL;
}

/* The frontend that a socket wants to go to. */
static __noinline struct vip *find_wanted(const struct packet *p)
{
	return is_loopback(p->key.daddr) ? find_loopback(p) : find_frontend(p);
}

/* Completes the source. Whether there is all of it that a pick may need. */
static __always_inline bool has_source(struct packet *p, bool host)
{
	if (!is_none(p->key.saddr))
		return true;
	if (!host)
		return false;
	copy_addr(p->key.saddr, p->v4 ? (__u8 *)host_source.v4 : (__u8 *)host_source.v6);
	return true;
}

/* Whether the pick depends on who asks. */
static __always_inline bool asks_source(const struct service *svc, __u64 pool)
{
	__u32 rule = pool >> 56 & 15, flags = pool >> 60;

	return svc->affinity || (rule == RULE_HASH && !(flags & RULE_HASH_DEST));
}

static __always_inline bool asks_port(__u64 pool)
{
	return (pool >> 56 & 15) == RULE_HASH && pool >> 60 & RULE_HASH_PORT;
}

static __always_inline enum reach refused(enum drop_reason reason)
{
	count_drop(reason);
	return REACH_REFUSED;
}

/* Whether a namespace's sockets are led, to this frontend. */
static __always_inline bool leads(const struct vip *v, const struct service *svc, bool host)
{
	if (host)
		return true;
	/* a pod's address is to be changed: that takes packets */
	return !(v->flags & VIP_MASQUERADE) && !(svc->options & SERVICE_SOCKETS_OF_HOST);
}

/* Where a socket is led that wants to go to a VIP; its backend's id. */
static __noinline enum reach reach(struct bpf_sock_addr *ctx, struct packet *p, __u32 *id)
{
	bool host = bpf_get_netns_cookie(ctx) == host_netns, known;
	struct service *svc;
	struct vip *v;
	__u64 word;
	__u32 pool;

	if (!host && (host_sockets_only || p->key.proto != IPPROTO_TCP || is_kernels(ctx) ||
		      is_loopback(p->key.daddr)))
		return REACH_ALONE;
	v = find_wanted(p);
	if (!v)
		return find_vip(p->key.daddr, 0, 0) && !is_assigned(p->key.daddr)
			       ? refused(DROP_UNKNOWN_PORT)
			       : REACH_ALONE;
	svc = bpf_map_lookup_elem(&services, &v->service);
	if (!svc || !leads(v, svc, host))
		return REACH_ALONE;
	pool = pool_here(v);
	word = pool_word(svc, pool);
	known = has_source(p, host);
	if (!known && (v->flags & VIP_RESTRICTED || asks_source(svc, word)))
		return REACH_ALONE;
	if (!p->key.sport && asks_port(word)) {
		if (!host)
			return REACH_ALONE;
		p->key.sport = bpf_get_prandom_u32(); /* as the kernel will choose one */
	}
	if (v->flags & VIP_RESTRICTED && !is_admitted(p->key.saddr, v->service))
		return REACH_ALONE;
	*id = choose(p, v->service, pool);
	if (*id)
		return REACH_BACKEND;
	if (is_elsewhere(word))
		return REACH_ALONE;
	return refused(DROP_EMPTY_POOL);
}

/* What a socket is in the word of its backend's load: what a flow of it would be. */
static __always_inline __u64 one_socket(const struct socket *s)
{
	return one_entry(s->proto == IPPROTO_TCP ? STATE_ESTABLISHED : STATE_UDP);
}

/* Counts a socket where its hint says. */
static __always_inline void count_socket(struct socket *s)
{
	s->flags |= SOCKET_COUNTED;
	add_load(s->backend, one_socket(s));
}

/* Takes that back; whether there was anything. */
static __always_inline bool discount(struct socket *s)
{
	if (!(s->flags & SOCKET_COUNTED))
		return false;
	s->flags &= ~SOCKET_COUNTED;
	add_load(s->backend, -one_socket(s));
	return true;
}

/*
 * Notes where a socket is led, and counts it, if it is not the kernel's, nor a datagram that is
 * scheduled by itself. False: it is to go nowhere.
 */
static __always_inline bool note(struct bpf_sock_addr *ctx, struct socket *s,
				 const struct packet *p, __u32 id, __u8 flags)
{
	struct backend *b = backend_at(id);
	struct service *svc;

	if (!b || !b->hash)
		return false;
	svc = bpf_map_lookup_elem(&services, &b->service);
	if (!svc)
		return false;
	copy_addr(s->vip, p->key.daddr);
	copy_addr(s->addr, b->addr);
	s->vip_port = p->key.dport;
	s->port = b->port ? b->port : p->key.dport;
	s->backend = id;
	s->backend_hash = b->hash;
	s->service_hash = svc->hash;
	s->seen = now();
	s->proto = p->key.proto;
	s->flags = flags;
	if (is_once(p, svc))
		s->flags |= SOCKET_ONCE;
	else if (!is_kernels(ctx))
		count_socket(s);
	count_connection(id);
	return true;
}

/*
 * What a hook returns for a socket: 0 it is refused, 1 it goes on. LED is ours: it goes on where
 * its element says.
 */
enum { SOCKET_REFUSED, SOCKET_PASSES, SOCKET_LED };

static __always_inline int refuse_socket(int error)
{
	bpf_set_retval(-error);
	return SOCKET_REFUSED;
}

/* Of a socket that connects. */
static __noinline int connects(struct bpf_sock_addr *ctx, struct packet *p, struct socket **to)
{
	struct bpf_sock *sk = ctx->sk;
	enum reach r = REACH_ALONE;
	bool counted = false;
	struct socket *s;
	__u32 id = 0;

	if (!sk)
		return SOCKET_PASSES;
	s = bpf_sk_storage_get(&sockets, sk, NULL, 0);
	if (s)
		counted = discount(s); /* before the pick, which is not to see it */
	if (concerns(p))
		r = reach(ctx, p, &id);
	if (r == REACH_REFUSED) {
		/* what UDP was connected to, it still is */
		if (s && counted && p->key.proto == IPPROTO_UDP)
			count_socket(s);
		return refuse_socket(ECONNREFUSED);
	}
	if (s) {
		s->backend_hash = 0;
		s->flags = SOCKET_CONNECTED;
	}
	if (r == REACH_ALONE)
		return SOCKET_PASSES;
	s = bpf_sk_storage_get(&sockets, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!s)
		return refuse_socket(ENOMEM);
	if (!note(ctx, s, p, id, SOCKET_CONNECTED))
		return refuse_socket(ECONNREFUSED);
	*to = s;
	return SOCKET_LED;
}
