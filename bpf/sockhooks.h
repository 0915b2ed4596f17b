/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The entry points of sockets, which only map what becomes of one to its hook. */
#pragma once

static __always_inline int lead4(struct bpf_sock_addr *ctx, int verdict, const struct socket *s)
{
	if (verdict == SOCKET_LED && s) {
		ctx->user_ip4 = ((const __u32 *)s->addr)[3];
		ctx->user_port = bpf_htons(s->port);
	}
	return verdict != SOCKET_REFUSED;
}

static __always_inline void write6(struct bpf_sock_addr *ctx, const addr_t addr, __u16 port)
{
	const __u32 *a = (const __u32 *)addr;

	ctx->user_ip6[0] = a[0];
	ctx->user_ip6[1] = a[1];
	ctx->user_ip6[2] = a[2];
	ctx->user_ip6[3] = a[3];
	ctx->user_port = bpf_htons(port);
}

static __always_inline int lead6(struct bpf_sock_addr *ctx, int verdict, const struct socket *s)
{
	if (verdict == SOCKET_LED && s)
		write6(ctx, s->addr, s->port);
	return verdict != SOCKET_REFUSED;
}

SEC("cgroup/connect4")
int sock_connect4(struct bpf_sock_addr *ctx)
{
	struct socket *s = NULL;
	struct packet p;
	int v;

	if (!from4(ctx, &p, false))
		return SOCKET_PASSES;
	v = connects(ctx, &p, &s);
	return lead4(ctx, v, s);
}

SEC("cgroup/connect6")
int sock_connect6(struct bpf_sock_addr *ctx)
{
	struct socket *s = NULL;
	struct packet p;
	int v;

	if (!from6(ctx, &p, false))
		return SOCKET_PASSES;
	v = connects(ctx, &p, &s);
	return lead6(ctx, v, s);
}

SEC("cgroup/sendmsg4")
int sock_sendmsg4(struct bpf_sock_addr *ctx)
{
	struct socket *s = NULL;
	struct packet p;
	int v;

	if (!from4(ctx, &p, true))
		return SOCKET_PASSES;
	v = sends(ctx, &p, &s);
	return lead4(ctx, v, s);
}

SEC("cgroup/sendmsg6")
int sock_sendmsg6(struct bpf_sock_addr *ctx)
{
	struct socket *s = NULL;
	struct packet p;
	int v;

	if (!from6(ctx, &p, true))
		return SOCKET_PASSES;
	v = sends(ctx, &p, &s);
	return lead6(ctx, v, s);
}

/* Says the VIP where the kernel would say the backend. */
static __always_inline int tell4(struct bpf_sock_addr *ctx)
{
	struct socket *s;
	struct packet p;

	if (!from4(ctx, &p, false))
		return SOCKET_PASSES;
	s = led_to(ctx, &p);
	if (s) {
		ctx->user_ip4 = ((const __u32 *)s->vip)[3];
		ctx->user_port = bpf_htons(s->vip_port);
	}
	return SOCKET_PASSES;
}

static __always_inline int tell6(struct bpf_sock_addr *ctx)
{
	struct socket *s;
	struct packet p;

	if (!from6(ctx, &p, false))
		return SOCKET_PASSES;
	s = led_to(ctx, &p);
	if (s)
		write6(ctx, s->vip, s->vip_port);
	return SOCKET_PASSES;
}

SEC("cgroup/recvmsg4")
int sock_recvmsg4(struct bpf_sock_addr *ctx)
{
	return tell4(ctx);
}

SEC("cgroup/recvmsg6")
int sock_recvmsg6(struct bpf_sock_addr *ctx)
{
	return tell6(ctx);
}

SEC("cgroup/getpeername4")
int sock_getpeername4(struct bpf_sock_addr *ctx)
{
	return tell4(ctx);
}

SEC("cgroup/getpeername6")
int sock_getpeername6(struct bpf_sock_addr *ctx)
{
	return tell6(ctx);
}

SEC("cgroup/bind4")
int sock_bind4(struct bpf_sock_addr *ctx)
{
	struct packet p;

	return from4(ctx, &p, false) ? binds(ctx, &p) : SOCKET_PASSES;
}

SEC("cgroup/bind6")
int sock_bind6(struct bpf_sock_addr *ctx)
{
	struct packet p;

	return from6(ctx, &p, false) ? binds(ctx, &p) : SOCKET_PASSES;
}

SEC("cgroup/sock_release")
int sock_release(struct bpf_sock *ctx)
{
	struct socket *s = bpf_sk_storage_get(&sockets, ctx, NULL, 0);

	if (s)
		discount(s);
	return SOCKET_PASSES;
}
