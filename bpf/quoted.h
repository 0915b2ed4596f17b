/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The packet that an ICMP error quotes: read and rewritten where it lies, and what that adds to the
 * sum that the error's checksum takes.
 */
#pragma once

static __always_inline bool quoted_v4(struct __sk_buff *skb, struct packet *q)
{
	struct iphdr ip;

	if (bpf_skb_load_bytes(skb, q->l3, &ip, sizeof(ip)) || ip.version != 4 || ip.ihl < 5 ||
	    bpf_ntohs(ip.frag_off) & IP_OFFSET)
		return false;
	map_v4(q->key.saddr, ip.saddr);
	map_v4(q->key.daddr, ip.daddr);
	q->key.proto = ip.protocol;
	q->l4 = q->l3 + ip.ihl * 4;
	return true;
}

static __always_inline bool quoted_v6(struct __sk_buff *skb, struct packet *q)
{
	struct ipv6hdr ip6;

	if (bpf_skb_load_bytes(skb, q->l3, &ip6, sizeof(ip6)) || ip6.version != 6)
		return false;
	copy_addr(q->key.saddr, &ip6.saddr);
	copy_addr(q->key.daddr, &ip6.daddr);
	q->key.proto = ip6.nexthdr;
	q->l4 = q->l3 + sizeof(ip6);
	return parse_extensions(skb, q) == PARSED_OK;
}

/* Reads the packet that is quoted at l3, in bytes bytes. False: it shows no ports. */
static __noinline bool parse_quoted(struct __sk_buff *skb, struct packet *q, bool v4)
{
	__be16 ports[2];

	if (!q)
		return false;
	q->v4 = v4;
	q->part = WHOLE;
	if (!(v4 ? quoted_v4(skb, q) : quoted_v6(skb, q)))
		return false;
	if (q->key.proto != IPPROTO_TCP && q->key.proto != IPPROTO_UDP &&
	    q->key.proto != IPPROTO_SCTP)
		return false;
	if (q->l4 + sizeof(ports) > q->l3 + q->bytes || /* a padded frame is longer */
	    bpf_skb_load_bytes(skb, q->l4, ports, sizeof(ports)))
		return false;
	q->key.sport = bpf_ntohs(ports[0]);
	q->key.dport = bpf_ntohs(ports[1]);
	q->key.pad = 0;
	return true;
}

/* Replaces a 16-bit word in the packet. Returns what it adds to the sum of the words. */
static __always_inline __u32 put_word(struct __sk_buff *skb, __u32 at, __u16 from, __u16 to)
{
	bpf_skb_store_bytes(skb, at, &to, sizeof(to), 0);
	return (__u16)~from + (__u32)to;
}

/* Replaces an address in the header at l3; the header's own checksum follows. */
static __always_inline void put_addr(struct __sk_buff *skb, __u32 l3, bool v4, enum end end,
				     const addr_t to, __u32 diff)
{
	__u16 check;

	if (!v4) {
		bpf_skb_store_bytes(skb, l3 + (end == SOURCE ? 8 : 24), to, 16, 0);
		return;
	}
	bpf_skb_store_bytes(skb, l3 + (end == SOURCE ? 12 : 16), to + 12, 4, 0);
	if (bpf_skb_load_bytes(skb, l3 + offsetof(struct iphdr, check), &check, 2))
		return;
	check = ~fold_csum((__u64)(__u16)~check + diff);
	bpf_skb_store_bytes(skb, l3 + offsetof(struct iphdr, check), &check, 2, 0);
}

/*
 * Rewrites one end of the quoted packet. Returns what that adds to the sum of the quoted bytes: an
 * IPv4 header's checksum balances its address, and a UDP checksum, if it is there, all but the
 * pseudo-header's part.
 */
static __noinline __u32 rewrite_quoted(struct __sk_buff *skb, struct packet *q, struct flow *to,
				       enum end end)
{
	__u16 from_port, check;
	__u32 diff, sum, at;
	__u64 total;

	if (!q || !to)
		return 0;
	diff = csum_diff(end == SOURCE ? q->key.saddr : q->key.daddr, to->addr);
	put_addr(skb, q->l3, q->v4, end, to->addr, diff);
	sum = q->v4 ? 0 : fold_csum(diff);
	from_port = end == SOURCE ? q->key.sport : q->key.dport;
	total = put_word(skb, q->l4 + (end == SOURCE ? 0 : 2), bpf_htons(from_port),
			 bpf_htons(to->port));
	sum += fold_csum(total);
	if (q->key.proto == IPPROTO_SCTP)
		return sum;
	at = checksum_at(q);
	if (at + 2 > q->l3 + q->bytes || /* TCP: only 8 bytes may be there */
	    bpf_skb_load_bytes(skb, at, &check, 2))
		return sum;
	if (q->key.proto == IPPROTO_UDP && !check)
		return sum;
	total = (__u16)~fold_csum(total + (__u16)~check + diff);
	if (q->key.proto == IPPROTO_UDP && !total)
		total = 0xffff;
	return sum + put_word(skb, at, check, total);
}
