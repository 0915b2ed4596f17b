/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Answers that we make ourselves: ICMP port unreachable (RFC 792, RFC 4443) and RST (RFC 9293
 * section 3.10.7.1). The packet is turned round in place and leaves by the device it came from.
 */
#pragma once

#define ANSWERS_PER_SECOND 1000 /* and CPU */

#define ICMP_UNREACHABLE  3
#define ICMP_PORT	  3
#define ICMP6_UNREACHABLE 1
#define ICMP6_PORT	  4
#define ANSWER_TTL	  64
#define MAX_QUOTED	  1232 /* IPv6: 1280 less 40 less 8, RFC 4443 section 3.1 */

struct icmp_error {
	__u8 type, code;
	__be16 check;
	__be32 unused;
};

struct answer4 {
	struct iphdr ip;
	struct icmp_error icmp;
};

struct answer6 {
	struct ipv6hdr ip;
	struct icmp_error icmp;
};

static __always_inline bool may_answer(void)
{
	__u32 zero = 0;
	struct bucket *b = bpf_map_lookup_elem(&buckets, &zero);
	__u64 t = now64(), elapsed;

	if (!b)
		return false;
	elapsed = t - b->refilled;
	if (elapsed >= hz) {
		b->refilled = t;
		b->tokens = ANSWERS_PER_SECOND;
	}
	if (!b->tokens)
		return false;
	b->tokens--;
	return true;
}

/* Whether the address may be a host's: others get no answer (RFC 1122 3.2.2, RFC 4443 2.4). */
static __always_inline bool may_be_host(const addr_t addr, bool v4)
{
	const __u64 *w = (const __u64 *)addr;

	if (v4) /* not "this network", loopback, multicast or broadcast */
		return addr[12] && addr[12] != 127 && addr[12] < 224;
	return addr[0] != 0xff && (w[0] || bpf_be64_to_cpu(w[1]) > 1);
}

static __always_inline bool turn_ethernet(struct __sk_buff *skb)
{
	struct ethhdr *eth = data(skb);
	__u8 mac[ETH_ALEN];

	if ((void *)(eth + 1) > data_end(skb))
		return false;
	__builtin_memcpy(mac, eth->h_dest, ETH_ALEN);
	__builtin_memcpy(eth->h_dest, eth->h_source, ETH_ALEN);
	__builtin_memcpy(eth->h_source, mac, ETH_ALEN);
	return true;
}

/* Sum of the pseudo-header: addresses, length and protocol, unfolded. */
static __always_inline __u64 pseudo_sum(const struct flow_key *key, __u32 len, __u8 proto)
{
	const __u32 *s = (const __u32 *)key->saddr, *d = (const __u32 *)key->daddr;
	__u64 sum = bpf_htonl(len);

	/* the ffff of two mapped addresses sums to -0 */
	sum += (__u64)s[0] + s[1] + s[2] + s[3];
	sum += (__u64)d[0] + d[1] + d[2] + d[3];
	return sum + bpf_htonl((__u32)proto);
}

/*
 * Whether the device is to finish the layer 4 checksum later (CHECKSUM_PARTIAL): then the helper
 * leaves the field alone. The field is as before on return; its value goes to *check.
 */
static __always_inline bool is_partial(struct __sk_buff *skb, __u32 at, __u16 *check)
{
	__u16 after;

	if (bpf_skb_load_bytes(skb, at, check, 2) ||
	    bpf_l4_csum_replace(skb, at, 0, bpf_htons(1), 2) ||
	    bpf_skb_load_bytes(skb, at, &after, 2))
		return false;
	if (after == *check)
		return true;
	bpf_skb_store_bytes(skb, at, check, 2, 0);
	return false;
}

/*
 * Sum of the quoted bytes as they will be on the wire. What a device sums later it also stores, and
 * the whole from the layer 4 header on then sums to the complement of the pseudo-header.
 */
static __always_inline bool quoted_sum(struct __sk_buff *skb, const struct packet *p, __u32 len,
				       __u32 *sum)
{
	__u32 zero = 0, at, left = len, off = 0, i;
	struct quote *q = bpf_map_lookup_elem(&quotes, &zero);
	bool partial = false;
	__u16 check = 0;

	if (!q)
		return false;
	at = checksum_at(p);
	if (p->key.proto == IPPROTO_UDP || p->key.proto == IPPROTO_TCP)
		partial = is_partial(skb, at, &check);
	if (partial)
		left = p->l4 - p->l3;
	*sum = partial ? (__u16)~check : 0;
	/* the verifier bounds what is compared: left itself, not a difference of it */
	asm volatile("" : "+r"(left));
	if (left < 4)
		return false;
	asm volatile("" : "+r"(left));
	if (left > MAX_QUOTED || bpf_skb_load_bytes(skb, p->l3, q->bytes, left))
		return false;
	for (i = 0; i < 3; i++) {
		__u32 n = left < 512 ? left : 512;

		asm volatile("" : "+r"(n)); /* as above */
		if (n > 512)
			break;
		if (n)
			*sum = bpf_csum_diff(0, 0, (__be32 *)(q->bytes + off), n & ~3u, *sum);
		left -= n;
		off += 512;
	}
	return true;
}

static __always_inline long store_answer4(struct __sk_buff *skb, const struct packet *p, __u32 len,
					  __u32 sum)
{
	struct answer4 a = {
		.ip =
			{
				.version = 4,
				.ihl = 5,
				.tot_len = bpf_htons(sizeof(a) + len),
				.ttl = ANSWER_TTL,
				.protocol = IPPROTO_ICMP,
				.saddr = ((const __u32 *)p->key.daddr)[3],
				.daddr = ((const __u32 *)p->key.saddr)[3],
			},
		.icmp = {.type = ICMP_UNREACHABLE, .code = ICMP_PORT},
	};

	a.ip.check = ~fold_csum(bpf_csum_diff(0, 0, (__be32 *)&a.ip, sizeof(a.ip), 0));
	a.icmp.check = ~fold_csum(bpf_csum_diff(0, 0, (__be32 *)&a.icmp, sizeof(a.icmp), sum));
	return bpf_skb_store_bytes(skb, p->l3, &a, sizeof(a), 0);
}

static __always_inline long store_answer6(struct __sk_buff *skb, const struct packet *p, __u32 len,
					  __u32 sum)
{
	struct answer6 a = {
		.ip =
			{
				.version = 6,
				.payload_len = bpf_htons(sizeof(a.icmp) + len),
				.nexthdr = IPPROTO_ICMPV6,
				.hop_limit = ANSWER_TTL,
			},
		.icmp = {.type = ICMP6_UNREACHABLE, .code = ICMP6_PORT},
	};

	copy_addr((__u8 *)&a.ip.saddr, p->key.daddr);
	copy_addr((__u8 *)&a.ip.daddr, p->key.saddr);
	sum = bpf_csum_diff(0, 0, (__be32 *)&a.icmp, sizeof(a.icmp), sum);
	a.icmp.check = ~fold_csum(pseudo_sum(&p->key, sizeof(a.icmp) + len, IPPROTO_ICMPV6) + sum);
	return bpf_skb_store_bytes(skb, p->l3, &a, sizeof(a), 0);
}

/* Turns the packet into an ICMP error that quotes it. False: it could not be made. */
static __noinline bool make_unreachable(struct __sk_buff *skb, struct packet *p)
{
	__u32 room, len, sum = 0;

	if (!p)
		return false;
	room = p->v4 ? sizeof(struct answer4) : sizeof(struct answer6);
	len = p->v4 ? 576 - sizeof(struct answer4) : 1280 - sizeof(struct answer6);
	if (len > p->bytes)
		len = p->bytes;
	len &= ~3u;
	/* the length first: it makes an aggregate of segments one packet */
	if (p->l3 > ETH_HLEN || bpf_skb_change_tail(skb, p->l3 + len, 0) ||
	    !quoted_sum(skb, p, len, &sum) || bpf_skb_adjust_room(skb, room, BPF_ADJ_ROOM_MAC, 0))
		return false;
	return !(p->v4 ? store_answer4(skb, p, len, sum) : store_answer6(skb, p, len, sum));
}

/*
 * Turns the header of a segment into that of its RST, which begins a life of its own: the segment
 * may have come with its last hop.
 */
static __always_inline bool turn_header(struct __sk_buff *skb, const struct packet *p)
{
	__u32 len = p->l4 - p->l3 + sizeof(struct tcphdr);

	if (p->v4) {
		struct iphdr *ip = header(skb, p->l3);
		__u64 sum;

		if ((void *)(ip + 1) > data_end(skb))
			return false;
		/* addresses change places: the same sum; the TTL is a word with the protocol */
		sum = (__u64)(__u16)~ip->check + (__u16)~ip->tot_len + bpf_htons(len);
		sum += (__u16)~bpf_htons(ip->ttl << 8) + bpf_htons(ANSWER_TTL << 8);
		ip->check = ~fold_csum(sum);
		ip->ttl = ANSWER_TTL;
		ip->tot_len = bpf_htons(len);
		ip->saddr = ((const __u32 *)p->key.daddr)[3];
		ip->daddr = ((const __u32 *)p->key.saddr)[3];
		return true;
	} else {
		struct ipv6hdr *ip6 = header(skb, p->l3);

		if ((void *)(ip6 + 1) > data_end(skb))
			return false;
		ip6->payload_len = bpf_htons(len - sizeof(*ip6));
		ip6->hop_limit = ANSWER_TTL;
		copy_addr((__u8 *)&ip6->saddr, p->key.daddr);
		copy_addr((__u8 *)&ip6->daddr, p->key.saddr);
		return true;
	}
}

/* Turns a TCP segment into the RST that answers it. False: it could not be made. */
static __noinline bool make_rst(struct __sk_buff *skb, struct packet *p)
{
	struct tcphdr in, out = {};
	bool partial;
	__u16 check;
	__u32 len;
	__u64 sum;

	if (!p || bpf_skb_load_bytes(skb, p->l4, &in, sizeof(in)))
		return false;
	len = p->bytes - (p->l4 - p->l3) - in.doff * 4;
	out.source = in.dest;
	out.dest = in.source;
	out.doff = sizeof(out) / 4;
	out.rst = 1;
	if (in.ack) {
		out.seq = in.ack_seq;
	} else {
		out.ack = 1;
		out.ack_seq = bpf_htonl(bpf_ntohl(in.seq) + len + in.syn + in.fin);
	}
	partial = is_partial(skb, p->l4 + offsetof(struct tcphdr, check), &check);
	if (bpf_skb_change_tail(skb, p->l4 + sizeof(out), 0))
		return false;
	sum = pseudo_sum(&p->key, sizeof(out), IPPROTO_TCP);
	if (partial)
		out.check = fold_csum(sum);
	else
		out.check = ~fold_csum(sum +
				       (__u32)bpf_csum_diff(0, 0, (__be32 *)&out, sizeof(out), 0));
	if (bpf_skb_store_bytes(skb, p->l4, &out, sizeof(out), 0))
		return false;
	return turn_header(skb, p);
}
