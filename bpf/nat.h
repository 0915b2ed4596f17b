/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Rewriting one address and port. */
#pragma once

/* What the internet checksum over the bytes changes by, from the old to the new address. */
static __always_inline __u32 csum_diff(const addr_t from, const addr_t to)
{
	const __u32 *f = (const __u32 *)from, *t = (const __u32 *)to;
	__u64 sum = 0;

	sum += (__u64)(__u32)~f[0] + t[0];
	sum += (__u64)(__u32)~f[1] + t[1];
	sum += (__u64)(__u32)~f[2] + t[2];
	sum += (__u64)(__u32)~f[3] + t[3];
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffffffff) + (sum >> 32);
	return (__u32)sum;
}

static __always_inline __u16 fold_csum(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (__u16)sum;
}

/* Which end of the packet changes. */
enum end { SOURCE, DESTINATION };

/* Where the layer 4 checksum is, from skb->data. */
static __always_inline __u32 checksum_at(const struct packet *p)
{
	return p->l4 + (p->key.proto == IPPROTO_UDP ? offsetof(struct udphdr, check)
						     : offsetof(struct tcphdr, check));
}

/*
 * What the helper makes of a checksum that no device will finish; if it made something else, the
 * checksum is partial. With a diff of zero both are the same: unknown.
 */
enum summed { SUMMED_UNKNOWN, SUMMED_WHOLE, SUMMED_PARTIAL };

static __always_inline enum summed how_summed(__u16 before, __u16 after, __u32 diff, bool udp)
{
	__u16 d = fold_csum(diff), whole = ~fold_csum((__u64)(__u16)~before + d);

	if (d == 0 || d == 0xffff)
		return SUMMED_UNKNOWN;
	if (udp && !whole)
		whole = 0xffff;
	return after == whole ? SUMMED_WHOLE : SUMMED_PARTIAL;
}

/*
 * The address's part of the layer 4 checksum goes through the kernel's helper, which alone knows
 * whether the device has summed the packet (COMPLETE), will sum it (PARTIAL) or neither. A call
 * costs 20 ns, so the port's part is a plain store where the first call's effect shows that this
 * is right, and a second call where it does not. An IPv6 header has no checksum of its own to
 * balance the address, so what the helper takes off the device's sum is put back.
 */
static __always_inline bool mend_checksum(struct __sk_buff *skb, const struct packet *p,
					  __u32 diff, __u16 from, __u16 to)
{
	bool udp = p->key.proto == IPPROTO_UDP;
	__u32 at = checksum_at(p);
	__u64 flags = udp ? BPF_F_MARK_MANGLED_0 : 0;
	__u16 *check = header(skb, at), before;

	if ((void *)(check + 1) > data_end(skb))
		return false;
	before = *check;
	if (bpf_l4_csum_replace(skb, at, 0, diff, flags | BPF_F_PSEUDO_HDR))
		return false;
	if (!p->v4)
		bpf_csum_update(skb, diff);
	if (from == to || (udp && !before))
		return true;
	check = header(skb, at);
	if ((void *)(check + 1) > data_end(skb))
		return false;
	switch (how_summed(before, *check, diff, udp)) {
	case SUMMED_PARTIAL:
		return true;
	case SUMMED_WHOLE:
		*check = ~fold_csum((__u64)(__u16)~*check + (__u16)~bpf_htons(from) + bpf_htons(to));
		if (udp && !*check)
			*check = 0xffff;
		return true;
	default:
		return !bpf_l4_csum_replace(skb, at, bpf_htons(from), bpf_htons(to), flags | 2);
	}
}

static __always_inline bool store_v4(struct __sk_buff *skb, const struct packet *p, const addr_t to,
				     __u32 diff, enum end end)
{
	struct iphdr *ip = header(skb, p->l3);

	if ((void *)(ip + 1) > data_end(skb))
		return false;
	if (end == SOURCE)
		ip->saddr = ((const __u32 *)to)[3];
	else
		ip->daddr = ((const __u32 *)to)[3];
	ip->check = ~fold_csum((__u64)(__u16)~ip->check + diff);
	return true;
}

static __always_inline bool store_v6(struct __sk_buff *skb, const struct packet *p, const addr_t to,
				     enum end end)
{
	struct ipv6hdr *ip6 = header(skb, p->l3);

	if ((void *)(ip6 + 1) > data_end(skb))
		return false;
	copy_addr((__u8 *)(end == SOURCE ? &ip6->saddr : &ip6->daddr), to);
	return true;
}

/* False: the kernel would not change the packet, which must not go on half changed. */
static __always_inline bool rewrite(struct __sk_buff *skb, const struct packet *p, const addr_t to,
				    __u16 port, enum end end)
{
	const __u8 *from = end == SOURCE ? p->key.saddr : p->key.daddr;
	__u16 from_port = end == SOURCE ? p->key.sport : p->key.dport;
	__u32 diff = csum_diff(from, to);
	__be16 *ports;

	if (!mend_checksum(skb, p, diff, from_port, port))
		return false;
	if (!(p->v4 ? store_v4(skb, p, to, diff, end) : store_v6(skb, p, to, end)))
		return false;
	ports = header(skb, p->l4);
	if ((void *)(ports + 2) > data_end(skb))
		return false;
	ports[end == DESTINATION] = bpf_htons(port);
	return true;
}
