/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Datagrams of sockets that are not connected, and what a process learns of who sent one, or of
 * whom it is connected to: a VIP, where it was led from one.
 */
#pragma once

#define KEPT_NOWHERE ~0u /* what a flow sends would be dropped */

/*
 * Id of the backend at which a socket goes on, as a flow of UDP would; 0: it does not. The hint may
 * be stale where nothing counts.
 */
static __noinline __u32 keeps(struct socket *s, const struct packet *p)
{
	__u64 hash = s->backend_hash;
	struct backend *b = backend_at(s->backend);
	__u32 lives = timeout_of(STATE_UDP); /* 0: for ever */
	struct service *svc;
	__u32 id = s->backend;

	if (s->flags & SOCKET_ONCE || (lives && now() - s->seen >= lives * hz))
		return 0;
	if (!b || b->hash != hash) {
		id = id_of(hash);
		b = backend_at(id);
		if (!b || b->hash != hash)
			return 0;
	}
	if (b->state == BACKEND_ACTIVE)
		return id;
	svc = bpf_map_lookup_elem(&services, &b->service);
	if (svc && svc->options & SERVICE_LOST_DROP)
		return KEPT_NOWHERE;
	return find_wanted(p) ? 0 : id; /* if the service is gone too, it runs on */
}

static __always_inline bool is_at(const struct socket *s, const struct packet *p)
{
	return s->backend_hash && s->vip_port == p->key.dport && s->proto == p->key.proto &&
	       same_addr(s->vip, p->key.daddr);
}

/* Keeps, beside the last place that a socket was led to, the one before. */
static __noinline int keep_peer(struct bpf_sock_addr *ctx, struct socket *s)
{
	struct socket_peer k = {.cookie = bpf_get_socket_cookie(ctx)};
	struct socket last;

	if (!s)
		return 0;
	last = *s;
	last.flags &= SOCKET_ONCE; /* what it counted moves on */
	copy_addr(k.addr, last.vip);
	k.port = last.vip_port;
	bpf_map_update_elem(&socket_peers, &k, &last, BPF_ANY);
	copy_addr(k.addr, last.addr);
	k.port = last.port;
	k.backend = 1;
	bpf_map_update_elem(&socket_peers, &k, &last, BPF_ANY);
	return 0;
}

/* Where a socket was led from a VIP, or to a backend, before the last place; NULL: never. */
static __noinline struct socket *find_peer(struct bpf_sock_addr *ctx, const addr_t addr, __u16 port,
					   bool backend)
{
	struct socket_peer k = {
		.cookie = bpf_get_socket_cookie(ctx), .port = port, .backend = backend};

	copy_addr(k.addr, addr);
	return bpf_map_lookup_elem(&socket_peers, &k);
}

/*
 * Moves a socket to a place where it was before, whose backend has this id; copies that, as the map
 * may take it for others.
 */
static __noinline int move_back(struct bpf_sock_addr *ctx, struct socket *s, struct socket *before,
				__u32 id)
{
	struct socket to;

	if (!s || !before)
		return 0;
	to = *before;
	to.backend = id;
	to.seen = now();
	to.flags = s->flags & SOCKET_CONNECTED;
	to.moves = s->moves + 1;
	discount(s);
	keep_peer(ctx, s);
	*s = to;
	if (!is_kernels(ctx))
		count_socket(s);
	return 0;
}

/* Leads a socket's datagrams to a backend that they did not go to before. */
static __noinline bool move_to(struct bpf_sock_addr *ctx, struct packet *p, struct socket *s,
			       __u32 id)
{
	if (!s)
		return false;
	discount(s);
	if (s->backend_hash)
		keep_peer(ctx, s);
	return note(ctx, s, p, id, s->flags & SOCKET_CONNECTED);
}

/* Of a socket that sends to an address. */
static __noinline int sends(struct bpf_sock_addr *ctx, struct packet *p, struct socket **to)
{
	struct bpf_sock *sk = ctx->sk;
	struct socket *s, *before = NULL;
	enum reach r;
	__u32 id = 0;

	if (!sk || !concerns(p) || bpf_get_netns_cookie(ctx) != host_netns)
		return SOCKET_PASSES;
	s = bpf_sk_storage_get(&sockets, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!s)
		return refuse_socket(ENOMEM);
	*to = s;
	if (is_at(s, p)) {
		id = keeps(s, p);
		if (!id)
			discount(s); /* before the pick, as the end of a flow is */
	} else if (s->backend_hash) {
		before = find_peer(ctx, p->key.daddr, p->key.dport, false);
		if (before && is_at(before, p))
			id = keeps(before, p);
	}
	if (id == KEPT_NOWHERE)
		return SOCKET_PASSES;
	if (id) {
		if (before)
			move_back(ctx, s, before, id);
		s->seen = now();
		return SOCKET_LED;
	}
	r = reach(ctx, p, &id);
	if (r == REACH_ALONE)
		return SOCKET_PASSES;
	if (r == REACH_REFUSED || !move_to(ctx, p, s, id))
		return refuse_socket(ECONNREFUSED);
	return SOCKET_LED;
}

/* Where a socket was led whose peer is p's destination; NULL: it is that itself. */
static __noinline struct socket *led_to(struct bpf_sock_addr *ctx, const struct packet *p)
{
	struct bpf_sock *sk = ctx->sk;
	struct socket *s;

	s = sk ? bpf_sk_storage_get(&sockets, sk, NULL, 0) : NULL;
	if (!s)
		return NULL;
	if (s->backend_hash && s->port == p->key.dport && s->proto == p->key.proto &&
	    same_addr(s->addr, p->key.daddr))
		return s;
	/* one that is connected to what is no VIP hears nobody else */
	if (p->key.proto != IPPROTO_UDP || (!s->backend_hash && s->flags & SOCKET_CONNECTED))
		return NULL;
	return find_peer(ctx, p->key.daddr, p->key.dport, true);
}
