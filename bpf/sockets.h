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

/* The parts of the kernel's socket that are used; CO-RE finds them. */
struct ns_common {
	__u32 inum;
} __attribute__((preserve_access_index));

struct net {
	struct ns_common ns;
} __attribute__((preserve_access_index));

typedef struct {
	struct net *net;
} __attribute__((preserve_access_index)) possible_net_t;

struct sock_common {
	__u32 skc_daddr, skc_rcv_saddr;
	__u16 skc_dport, skc_num, skc_family;
	__u8 skc_ipv6only : 1;
	int skc_bound_dev_if;
	possible_net_t skc_net;
	struct in6_addr skc_v6_daddr, skc_v6_rcv_saddr;
} __attribute__((preserve_access_index));

struct sock {
	struct sock_common __sk_common;
	__u8 sk_kern_sock : 1;
} __attribute__((preserve_access_index));

enum reach {
	REACH_ALONE, /* it goes where it wants to */
	REACH_BACKEND,
	REACH_REFUSED,
};

/*
 * Whether a socket is the kernel's own. Those are led, not counted: no hook says when they end.
 * The pointer is read as bytes, as the verifier takes no arithmetic on one to a socket.
 */
static __always_inline bool is_kernels(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *typed = ctx->sk;
	struct sock *sk = NULL;

	if (!bpf_core_field_exists(sk->sk_kern_sock) ||
	    bpf_probe_read_kernel(&sk, sizeof(sk), &typed))
		return false;
	return BPF_CORE_READ_BITFIELD_PROBED(sk, sk_kern_sock);
}

static __always_inline bool is_none(const addr_t addr)
{
	const __u64 *a = (const __u64 *)addr;

	return !a[0] && (!a[1] || a[1] == bpf_htonl(0xffff));
}

static __always_inline void set_v4(addr_t to, __u32 addr)
{
	__u32 *a = (__u32 *)to;

	a[0] = a[1] = 0;
	a[2] = bpf_htonl(0xffff);
	a[3] = addr;
}

static __always_inline void ports_of(struct bpf_sock_addr *ctx, struct packet *p)
{
	__u32 proto = ctx->protocol;

	p->key.dport = bpf_ntohs(ctx->user_port);
	p->key.proto = proto == IPPROTO_MPTCP ? IPPROTO_TCP : proto; /* whose packets are TCP */
}

/* What a packet of the socket would say; what is not known is zero. */
static __always_inline bool from4(struct bpf_sock_addr *ctx, struct packet *p, bool sends)
{
	struct bpf_sock *sk = ctx->sk;

	if (!sk)
		return false;
	__builtin_memset(p, 0, sizeof(*p));
	p->v4 = true;
	set_v4(p->key.daddr, ctx->user_ip4);
	set_v4(p->key.saddr, sk->src_ip4);
	if (sends && ctx->msg_src_ip4)
		set_v4(p->key.saddr, ctx->msg_src_ip4);
	p->key.sport = sk->src_port;
	ports_of(ctx, p);
	return true;
}

static __always_inline bool from6(struct bpf_sock_addr *ctx, struct packet *p, bool sends)
{
	struct bpf_sock *sk = ctx->sk;
	__u32 *to, *from;

	if (!sk)
		return false;
	__builtin_memset(p, 0, sizeof(*p));
	to = (__u32 *)p->key.daddr;
	to[0] = ctx->user_ip6[0];
	to[1] = ctx->user_ip6[1];
	to[2] = ctx->user_ip6[2];
	to[3] = ctx->user_ip6[3];
	p->v4 = !to[0] && !to[1] && to[2] == bpf_htonl(0xffff);
	from = (__u32 *)p->key.saddr;
	from[0] = sk->src_ip6[0];
	from[1] = sk->src_ip6[1];
	from[2] = sk->src_ip6[2];
	from[3] = sk->src_ip6[3];
	if (sends && (ctx->msg_src_ip6[0] || ctx->msg_src_ip6[1] || ctx->msg_src_ip6[2] ||
		      ctx->msg_src_ip6[3])) {
		from[0] = ctx->msg_src_ip6[0];
		from[1] = ctx->msg_src_ip6[1];
		from[2] = ctx->msg_src_ip6[2];
		from[3] = ctx->msg_src_ip6[3];
	}
	p->key.sport = sk->src_port;
	ports_of(ctx, p);
	return true;
}

/* Whether it may be to a frontend. */
static __always_inline bool concerns(const struct packet *p)
{
	__u32 bit = addr_bit(p->key.daddr);

	if (p->key.proto != IPPROTO_TCP && p->key.proto != IPPROTO_UDP)
		return false;
	return bit_is_set(&vip_bits, bit) ||
	       (bit_is_set(&node_port_bits, p->key.dport) &&
		(bit_is_set(&peer_bits, bit) || is_loopback(p->key.daddr)));
}

/* The rest of IPv4's loopback network serves what 127.0.0.1 does. */
static __always_inline struct vip *find_loopback(const struct packet *p)
{
	struct vip_key k = {.port = p->key.dport, .proto = p->key.proto};
	addr_t first = {};

	if (!bit_is_set(&node_port_bits, p->key.dport))
		return NULL;
	if (p->v4) {
		set_v4(first, bpf_htonl(0x7f000001));
		((__u32 *)k.addr)[2] = bpf_htonl(0xffff);
	} else {
		copy_addr(first, p->key.daddr);
	}
	return serves_node_ports(first) ? bpf_map_lookup_elem(&vips, &k) : NULL;
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
