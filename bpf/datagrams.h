/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Datagrams of sockets that are not connected, and what a process learns of who sent one, or of
 * whom it is connected to: a VIP, where it was led from one.
 */
#pragma once

/* Whether a socket goes on where it was led, as a flow of UDP would. */
static __noinline bool keeps(struct socket *s, const struct packet *p)
{
	__u64 hash = s->backend_hash;
	struct backend *b = backend_at(s->backend);
	__u32 *mended, lives = timeout_of(STATE_UDP); /* 0: for ever */
	struct service *svc;

	if (lives && now() - s->seen >= lives * hz)
		return false;
	if (!b || b->hash != hash) {
		mended = bpf_map_lookup_elem(&backend_ids, &hash);
		b = mended ? backend_at(*mended) : NULL;
		if (!b || b->hash != hash)
			return false;
	}
	svc = bpf_map_lookup_elem(&services, &b->service);
	if (svc && is_once(p, svc))
		return false;
	/* if the service is gone too, it runs on */
	return b->state == BACKEND_ACTIVE || !find_led(p);
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
	last.flags = 0; /* what it counted moves on */
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

/* Moves a socket to a place where it was before; copies that, as the map may take it for others. */
static __noinline int move_back(struct bpf_sock_addr *ctx, struct socket *s, struct socket *before)
{
	struct socket to;

	if (!s || !before)
		return 0;
	to = *before;
	to.seen = now();
	to.flags = s->flags;
	to.moves = s->moves + 1;
	discount(s);
	keep_peer(ctx, s);
	*s = to;
	if (to.flags & SOCKET_COUNTED)
		add_load(to.backend, 1);
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
	struct socket *s, *before;
	enum reach r;
	__u32 id = 0;

	if (!sk || !concerns(p) || bpf_get_netns_cookie(ctx) != host_netns)
		return SOCKET_PASSES;
	s = bpf_sk_storage_get(&sockets, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!s)
		return refuse_socket(ENOMEM);
	*to = s;
	if (is_at(s, p)) {
		if (keeps(s, p)) {
			s->seen = now();
			return SOCKET_LED;
		}
	} else if (s->backend_hash) {
		before = find_peer(ctx, p->key.daddr, p->key.dport, false);
		if (before && is_at(before, p) && keeps(before, p)) {
			move_back(ctx, s, before);
			return SOCKET_LED;
		}
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
	if (p->key.proto != IPPROTO_UDP)
		return NULL;
	return find_peer(ctx, p->key.daddr, p->key.dport, true);
}
