/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The walk over the sockets that were led, of all network namespaces: for each a record that the
 * reader of the iterator gets. Kernels that refuse iterators over elements walk the files that
 * tasks have open; a socket that several have is met for each. Of the two, only what the kernel
 * takes is loaded.
 */
#pragma once

#define AF_INET6 10

/* The parts of what the kernel hands to iterators that are used; CO-RE finds them. */
struct bpf_iter__bpf_sk_storage_map {
	struct bpf_iter_meta *meta;
	struct bpf_map *map;
	struct sock *sk;
	void *value;
} __attribute__((preserve_access_index));

struct bpf_iter__task_file {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
	__u32 fd;
	struct file *file;
} __attribute__((preserve_access_index));

/* The kernel's struct socket: ours has the name. */
struct socket___kernel {
	struct sock *sk;
} __attribute__((preserve_access_index));

static __always_inline void ends_of(struct sock *sk, struct walked_socket *w)
{
	struct sock_common *c = &sk->__sk_common;

	w->family = BPF_CORE_READ(c, skc_family);
	w->device = BPF_CORE_READ(c, skc_bound_dev_if);
	w->local_port = BPF_CORE_READ(c, skc_num);
	w->remote_port = bpf_ntohs(BPF_CORE_READ(c, skc_dport));
	if (w->family == AF_INET6 && bpf_core_field_exists(c->skc_v6_daddr)) {
		BPF_CORE_READ_INTO(&w->local, c, skc_v6_rcv_saddr);
		BPF_CORE_READ_INTO(&w->remote, c, skc_v6_daddr);
		return;
	}
	set_v4(w->local, BPF_CORE_READ(c, skc_rcv_saddr));
	set_v4(w->remote, BPF_CORE_READ(c, skc_daddr));
}

/* What is too much for one read is met again by the next one. */
static __always_inline int tell_walked(struct seq_file *seq, struct sock *sk,
				       const struct socket *s)
{
	struct walked_socket w = {.socket = *s};

	if (!w.socket.backend_hash && !(w.socket.flags & SOCKET_COUNTED))
		return 0;
	w.cookie = bpf_get_socket_cookie(sk);
	w.netns = BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum);
	ends_of(sk, &w);
	bpf_seq_write(seq, &w, sizeof(w));
	return 0;
}

SEC("iter/bpf_sk_storage_map")
int walk_sockets(struct bpf_iter__bpf_sk_storage_map *ctx)
{
	struct sock *sk = ctx->sk;
	struct socket *s = ctx->value;

	return sk && s ? tell_walked(ctx->meta->seq, sk, s) : 0;
}

SEC("iter/task_file")
int walk_files(struct bpf_iter__task_file *ctx)
{
	struct file *file = ctx->file;
	struct socket___kernel *k;
	struct socket *s;
	struct sock *sk;

	k = file ? (struct socket___kernel *)bpf_sock_from_file(file) : NULL;
	sk = k ? k->sk : NULL;
	s = sk ? bpf_sk_storage_get(&sockets, sk, NULL, 0) : NULL;
	return s ? tell_walked(ctx->meta->seq, sk, s) : 0;
}
