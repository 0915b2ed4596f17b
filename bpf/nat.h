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

/* Where the layer 4 checksum of TCP or UDP is, from skb->data. */
static __always_inline __u32 checksum_at(const struct packet *p)
{
	return p->l4 + (p->key.proto == IPPROTO_UDP ? offsetof(struct udphdr, check)
						    : offsetof(struct tcphdr, check));
}

/* Who finishes the layer 4 checksum: skb->ip_summed. */
enum summed { CHECKSUM_NONE, CHECKSUM_UNNECESSARY, CHECKSUM_COMPLETE, CHECKSUM_PARTIAL };

/* Mends a checksum in the packet that covers all, for what changed of addresses and ports. */
static __always_inline void mend_whole(__u16 *check, bool udp, __u64 changed)
{
	*check = ~fold_csum((__u64)(__u16) ~*check + changed);
	if (udp && !*check)
		*check = 0xffff;
}

/* The one field of the kernel's packet that is needed; CO-RE finds it. */
struct sk_buff {
	__u8 ip_summed : 2;
} __attribute__((preserve_access_index));

extern void *bpf_cast_to_kern_ctx(void *ctx) __ksym __weak;

/* Tests set it to take the way of kernels before 6.2. */
const volatile bool checksum_by_helper = false;

/*
 * The sender of a UDP packet left its checksum out, and so it stays. The device's sum, if there is
 * one, follows the ports, which nothing balances, and in IPv6 the address.
 */
static __always_inline void mend_unsummed(struct __sk_buff *skb, const struct packet *p, __u32 diff,
					  __u64 ports)
{
	bpf_csum_update(skb, fold_csum(p->v4 ? ports : ports + diff));
}

/*
 * Kernels before 6.2 do not show ip_summed, so their helper must do it: one call for the address,
 * one for the port. An IPv6 header has no checksum of its own to balance the address, so what the
 * helper takes off the device's sum is put back.
 */
static __always_inline bool mend_by_helper(struct __sk_buff *skb, const struct packet *p,
					   __u32 diff, __u16 from, __u16 to)
{
	__u64 ports = (__u64)(__u16)~bpf_htons(from) + bpf_htons(to);
	__u32 at = checksum_at(p);
	__u16 *check = header(skb, at);
	__u64 flags = p->key.proto == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;

	if ((void *)(check + 1) > data_end(skb))
		return false;
	if (p->key.proto == IPPROTO_UDP && !*check) {
		mend_unsummed(skb, p, diff, ports);
		return true;
	}
	if (bpf_l4_csum_replace(skb, at, 0, diff, flags | BPF_F_PSEUDO_HDR))
		return false;
	if (!p->v4)
		bpf_csum_update(skb, diff);
	if (from == to)
		return true;
	return !bpf_l4_csum_replace(skb, at, bpf_htons(from), bpf_htons(to), flags | 2);
}

/*
 * The layer 4 checksum by plain stores: two helper calls cost 42 ns, this 5. The field holds the
 * pseudo-header's sum if the device is to finish it (PARTIAL), else the complement of all; and if
 * the device has summed the packet (COMPLETE), that sum follows what changed in it: nothing in
 * IPv6, the address's part in IPv4, whose header balances itself.
 */
static __always_inline bool mend_checksum(struct __sk_buff *skb, const struct packet *p, __u32 diff,
					  __u16 from, __u16 to)
{
	bool udp = p->key.proto == IPPROTO_UDP;
	__u64 ports = (__u64)(__u16)~bpf_htons(from) + bpf_htons(to);
	struct sk_buff *kernel;
	enum summed summed;
	__u16 *check;

	if (checksum_by_helper || !bpf_cast_to_kern_ctx)
		return mend_by_helper(skb, p, diff, from, to);
	kernel = bpf_cast_to_kern_ctx(skb);
	summed = BPF_CORE_READ_BITFIELD(kernel, ip_summed);
	check = header(skb, checksum_at(p));
	if ((void *)(check + 1) > data_end(skb))
		return false;
	if (summed == CHECKSUM_PARTIAL) {
		*check = fold_csum((__u64)*check + diff);
		return true;
	}
	if (udp && !*check) {
		mend_unsummed(skb, p, diff, ports);
		return true;
	}
	if (summed == CHECKSUM_COMPLETE && p->v4)
		bpf_csum_update(skb, ~diff);
	mend_whole(check, udp, diff + ports);
	return true;
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

/*
 * What has no layer 4 checksum to mend: a later fragment, or SCTP, whose CRC32c does not cover
 * addresses and whose ports never change. Only the device's sum follows: it covers the header,
 * which in IPv6 nothing balances.
 */
static __always_inline void mend_sum(struct __sk_buff *skb, const struct packet *p, __u32 diff)
{
	if (!p->v4)
		bpf_csum_update(skb, diff);
}

/* False: the kernel would not change the packet, which must not go on half changed. */
static __always_inline bool rewrite(struct __sk_buff *skb, const struct packet *p, const addr_t to,
				    __u16 port, enum end end)
{
	const __u8 *from = end == SOURCE ? p->key.saddr : p->key.daddr;
	__u16 from_port = end == SOURCE ? p->key.sport : p->key.dport;
	__u32 diff = csum_diff(from, to);
	bool portless = p->part == LATER || p->key.proto == IPPROTO_SCTP;
	__be16 *ports;

	if (portless)
		mend_sum(skb, p, diff);
	else if (!mend_checksum(skb, p, diff, from_port, port))
		return false;
	if (!(p->v4 ? store_v4(skb, p, to, diff, end) : store_v6(skb, p, to, end)))
		return false;
	if (portless)
		return true;
	ports = header(skb, p->l4);
	if ((void *)(ports + 2) > data_end(skb))
		return false;
	ports[end == DESTINATION] = bpf_htons(port);
	return true;
}
