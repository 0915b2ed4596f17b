/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Processes of this machine that bind a node port: what comes to it there is the service's, so they
 * would get nothing. They are told, or refused.
 */
#pragma once

#define EADDRINUSE 98

/* Whether they are refused. */
const volatile bool refuse_binds = false;

static __always_inline bool is_ipv6_only(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *typed = ctx->sk;
	struct sock_common *sk = NULL;

	if (bpf_probe_read_kernel(&sk, sizeof(sk), &typed))
		return false;
	return BPF_CORE_READ_BITFIELD_PROBED(sk, skc_ipv6only);
}

/*
 * Whether an address that is bound, with its port, is one at which a node port is served. The
 * unspecified one of IPv6 is IPv4's too, if the socket says nothing else.
 */
static __noinline bool takes_node_port(struct bpf_sock_addr *ctx, const struct packet *p)
{
	if (!may_be_node_port(p->key.dport) || bpf_get_netns_cookie(ctx) != host_netns)
		return false;
	if (is_loopback(p->key.daddr))
		return find_loopback(p);
	if (!is_none(p->key.daddr))
		return serves_node_ports(p->key.daddr) &&
		       find_port(p->key.dport, p->key.proto, p->v4);
	if (find_port(p->key.dport, p->key.proto, p->v4))
		return true;
	return !p->v4 && !is_ipv6_only(ctx) && find_port(p->key.dport, p->key.proto, true);
}

/* Of a socket that is bound. */
static __noinline int binds(struct bpf_sock_addr *ctx, const struct packet *p)
{
	struct bind_event *e;

	if (!takes_node_port(ctx, p))
		return SOCKET_PASSES;
	e = bpf_ringbuf_reserve(&binds_seen, sizeof(*e), 0);
	if (e) { /* else there are so many that the agent knows enough */
		copy_addr(e->addr, p->key.daddr);
		e->port = p->key.dport;
		e->proto = p->key.proto;
		e->refused = refuse_binds;
		e->pid = bpf_get_current_pid_tgid() >> 32;
		bpf_get_current_comm(e->comm, sizeof(e->comm));
		bpf_ringbuf_submit(e, 0);
	}
	return refuse_binds ? refuse_socket(EADDRINUSE) : SOCKET_PASSES;
}
