/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The way of a frame from here, by the FIB: to which device, with which Ethernet addresses. What
 * the FIB said is good for packets with the same ends for the rest of a jiffy: most packets come in
 * trains, and asking costs more than all else that XDP does for one.
 */
#pragma once

/* As data() and data_end(), of a frame; what lies in further pieces is beyond. */
static __always_inline void *frame(struct xdp_md *ctx)
{
	void *p;

	asm volatile("%0 = *(u32 *)(%1 + %2)"
		     : "=r"(p)
		     : "r"(ctx), "i"(offsetof(struct xdp_md, data)));
	return p;
}

static __always_inline void *frame_end(struct xdp_md *ctx)
{
	void *p;

	asm volatile("%0 = *(u32 *)(%1 + %2)"
		     : "=r"(p)
		     : "r"(ctx), "i"(offsetof(struct xdp_md, data_end)));
	return p;
}

/* A header's place, as header(). */
static __always_inline void *frame_at(struct xdp_md *ctx, __u32 off)
{
	return frame(ctx) + (off & 0xff);
}

/*
 * Whether a device is to finish the layer 4 checksum: the field then holds the pseudo-header's sum.
 * Sent on from here, nobody would (veth, virtio). One in 65,536 others looks so, too.
 */
static __always_inline bool is_unfinished(struct xdp_md *ctx, const struct packet *p)
{
	__u16 *check = frame_at(ctx, checksum_at(p));

	if (p->key.proto == IPPROTO_SCTP)
		return false;
	if ((void *)(check + 1) > frame_end(ctx))
		return true;
	return *check == fold_csum(pseudo_sum(&p->key, p->bytes - (p->l4 - p->l3), p->key.proto));
}

/* Whether frames of from's device may be sent to another one. */
static __always_inline bool may_send(const struct device *from, struct way *w)
{
	struct device *d = device_at(w->ifindex);

	if (!are_joined(from, d))
		return false;
	__builtin_memcpy(w->mac, from->mac, ETH_ALEN);
	w->frags = d->flags & DEVICE_FRAGS;
	return true;
}

/*
 * Asks the FIB for the way of a packet that has these ends between its rewrites, and keeps its
 * answer. No device: the stack must find out the neighbour, answer that it is too long, or have it.
 */
static __noinline int ask_way(struct xdp_md *ctx, const struct packet *p, const struct flow_key *k,
			      struct way *w)
{
	struct iphdr *ip = frame_at(ctx, ETH_HLEN);
	struct bpf_fib_lookup q;
	struct device *from;

	if (!p || !k || !w || (void *)(ip + 1) > frame_end(ctx))
		return 0;
	w->ifindex = 0;
	make_query(&q, k, ip, p->v4, ctx->ingress_ifindex);
	w->from = ctx->ingress_ifindex;
	w->class = class_of(ip, p->v4);
	w->asked = now();
	w->ends = *k;
	q.tot_len = p->bytes;
	if (p->bytes > 0xffff || bpf_fib_lookup(ctx, &q, sizeof(q), 0) != BPF_FIB_LKUP_RET_SUCCESS)
		return 0;
	/* Linux 6.1 knows neighbours whose address it does not */
	from = device_at(ctx->ingress_ifindex);
	if (!from || !(*(__u32 *)q.dmac | *(__u16 *)(q.dmac + 4)))
		return 0;
	w->longest = q.mtu_result > p->bytes ? q.mtu_result : p->bytes;
	__builtin_memcpy(w->smac, q.smac, ETH_ALEN);
	__builtin_memcpy(w->dmac, q.dmac, ETH_ALEN);
	w->ifindex = q.ifindex;
	if (!may_send(from, w))
		w->ifindex = 0;
	return 0;
}

/* Whether w has what the FIB said of such a packet in this jiffy. */
static __always_inline bool is_known(struct xdp_md *ctx, const struct packet *p,
				     const struct flow_key *k, const struct way *w, __u32 class)
{
	const __u64 *a = (const __u64 *)k, *b = (const __u64 *)&w->ends;

	return w->ifindex && w->asked == now() && w->from == ctx->ingress_ifindex &&
	       w->class == class && p->bytes <= w->longest &&
	       !((a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]) | (a[4] ^ b[4]));
}

/*
 * The way of a packet that has these ends between its rewrites. NULL: it is the stack's, or it is
 * at its last hop, or of another kind than XDP may send.
 */
static __always_inline struct way *way_of(struct xdp_md *ctx, const struct packet *p,
					  const struct flow_key *k)
{
	__u32 at = (fold_addr(k->saddr) + fold_addr(k->daddr) + k->sport + k->dport) * GOLDEN_32 >>
		   (32 - WAYS_SHIFT);
	struct way *w = bpf_map_lookup_elem(&ways, &at);
	struct ethhdr *eth = frame(ctx);
	struct iphdr *ip = (void *)(eth + 1);

	if (!w || (void *)(ip + 1) > frame_end(ctx) || is_unfinished(ctx, p))
		return NULL;
	if ((p->v4 ? ip->ttl : ((struct ipv6hdr *)ip)->hop_limit) <= 1)
		return NULL;
	if (!is_known(ctx, p, k, w, class_of(ip, p->v4)))
		ask_way(ctx, p, k, w);
	eth = frame(ctx); /* a call: the verifier's */
	if (!w->ifindex || (void *)(eth + 1) > frame_end(ctx) ||
	    __builtin_memcmp(eth->h_dest, w->mac, ETH_ALEN))
		return NULL;
	return w->frags || bpf_xdp_get_buff_len(ctx) == (__u32)(frame_end(ctx) - frame(ctx)) ? w
											     : NULL;
}
