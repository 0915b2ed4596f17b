/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What a socket's hook is given, as a packet would say it. */
#pragma once

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
