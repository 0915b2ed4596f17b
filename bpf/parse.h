/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* From a packet to a flow key, in two steps: addresses first, so that others' packets leave early.
 */
#pragma once

enum parsed {
	PARSED_OK,
	PARSED_OTHER,	  /* neither TCP nor UDP */
	PARSED_FRAGMENT,  /* not the first fragment: no ports */
	PARSED_EXTENSION, /* IPv6 extension header */
	PARSED_MALFORMED,
};

/* A packet in work. Offsets from skb->data in bytes; key as a hook looks it up. */
struct packet {
	struct flow_key key;
	__u32 l3;
	__u32 l4;
	__u32 bytes; /* of the IP packet, as its device sees it */
	bool v4;
	bool fragment;	/* the first of several */
	__u8 tcp_flags; /* FIN 1, SYN 2, RST 4, ACK 16 */
};

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

#define IP_MF		 0x2000
#define IP_OFFSET	 0x1fff
#define FRAGMENT_OFFSET6 0xfff8

static __always_inline void *data(struct __sk_buff *skb)
{
	return (void *)(long)skb->data;
}

static __always_inline void *data_end(struct __sk_buff *skb)
{
	return (void *)(long)skb->data_end;
}

/* A header's place. Headers that are parsed end within 256 bytes; the mask tells the verifier. */
static __always_inline void *header(struct __sk_buff *skb, __u32 off)
{
	return data(skb) + (off & 0xff);
}

/* Makes the first len bytes linear. Pointers into the packet are void afterwards. */
static __always_inline bool pull(struct __sk_buff *skb, __u32 len)
{
	if (header(skb, len) <= data_end(skb))
		return true;
	return bpf_skb_pull_data(skb, len) == 0;
}

static __always_inline void map_v4(addr_t to, __be32 addr)
{
	__u32 *w = (__u32 *)to;

	w[0] = 0;
	w[1] = 0;
	w[2] = bpf_htonl(0xffff);
	w[3] = addr;
}

static __always_inline void copy_addr(addr_t to, const void *from)
{
	const __u32 *f = from;
	__u32 *t = (__u32 *)to;

	t[0] = f[0];
	t[1] = f[1];
	t[2] = f[2];
	t[3] = f[3];
}

static __always_inline bool same_addr(const addr_t a, const addr_t b)
{
	const __u64 *x = (const __u64 *)a, *y = (const __u64 *)b;

	return ((x[0] ^ y[0]) | (x[1] ^ y[1])) == 0;
}

/* Addresses and family; false: no IP packet, or cut off. */
static __always_inline bool parse_addrs(struct __sk_buff *skb, struct packet *p, __u32 l3)
{
	p->l3 = l3;
	p->bytes = skb->len - l3;
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip;

		if (!pull(skb, l3 + sizeof(*ip)))
			return false;
		ip = header(skb, l3);
		if ((void *)(ip + 1) > data_end(skb))
			return false;
		p->v4 = true;
		map_v4(p->key.saddr, ip->saddr);
		map_v4(p->key.daddr, ip->daddr);
		return true;
	}
	if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip6;

		if (!pull(skb, l3 + sizeof(*ip6)))
			return false;
		ip6 = header(skb, l3);
		if ((void *)(ip6 + 1) > data_end(skb))
			return false;
		p->v4 = false;
		copy_addr(p->key.saddr, &ip6->saddr);
		copy_addr(p->key.daddr, &ip6->daddr);
		return true;
	}
	return false;
}

/*
 * Takes the header's word for the packet's length, which a padded frame exceeds. An aggregate of
 * more than 64 KiB says 0 and is as long as its frame.
 */
static __always_inline bool fits(struct packet *p, __u32 len)
{
	if (len > p->bytes)
		return false;
	if (len)
		p->bytes = len;
	return true;
}

static __always_inline enum parsed parse_v4(struct __sk_buff *skb, struct packet *p)
{
	struct iphdr *ip = header(skb, p->l3);
	__u16 frag;

	if ((void *)(ip + 1) > data_end(skb) || ip->version != 4 || ip->ihl < 5)
		return PARSED_MALFORMED;
	if (!fits(p, bpf_ntohs(ip->tot_len)))
		return PARSED_MALFORMED;
	p->key.proto = ip->protocol;
	p->l4 = p->l3 + ip->ihl * 4;
	frag = bpf_ntohs(ip->frag_off);
	p->fragment = frag & IP_MF;
	return frag & IP_OFFSET ? PARSED_FRAGMENT : PARSED_OK;
}

static __always_inline enum parsed parse_v6(struct __sk_buff *skb, struct packet *p)
{
	struct ipv6hdr *ip6 = header(skb, p->l3);
	struct {
		__u8 next, reserved;
		__be16 frag_off;
		__be32 id;
	} f;

	if ((void *)(ip6 + 1) > data_end(skb) || ip6->version != 6)
		return PARSED_MALFORMED;
	if (ip6->payload_len && !fits(p, sizeof(*ip6) + bpf_ntohs(ip6->payload_len)))
		return PARSED_MALFORMED;
	p->key.proto = ip6->nexthdr;
	p->l4 = p->l3 + sizeof(*ip6);
	p->fragment = false;
	switch (p->key.proto) {
	case IPPROTO_FRAGMENT:
		if (bpf_skb_load_bytes(skb, p->l4, &f, sizeof(f)))
			return PARSED_MALFORMED;
		if (bpf_ntohs(f.frag_off) & FRAGMENT_OFFSET6)
			return PARSED_FRAGMENT;
		p->key.proto = f.next;
		p->l4 += sizeof(f);
		p->fragment = true;
		return PARSED_OK;
	case IPPROTO_HOPOPTS:
	case IPPROTO_ROUTING:
	case IPPROTO_DSTOPTS:
		return PARSED_EXTENSION;
	}
	return PARSED_OK;
}

/* Protocol, ports and TCP flags, after parse_addrs. */
static __always_inline enum parsed parse_ports(struct __sk_buff *skb, struct packet *p)
{
	enum parsed got = p->v4 ? parse_v4(skb, p) : parse_v6(skb, p);
	__u32 len;

	if (got != PARSED_OK)
		return got;
	if (p->key.proto != IPPROTO_TCP && p->key.proto != IPPROTO_UDP)
		return PARSED_OTHER;
	len = p->key.proto == IPPROTO_TCP ? sizeof(struct tcphdr) : sizeof(struct udphdr);
	if (!pull(skb, p->l4 + len))
		return PARSED_MALFORMED;
	if (p->key.proto == IPPROTO_TCP) {
		struct tcphdr *tcp = header(skb, p->l4);

		if ((void *)(tcp + 1) > data_end(skb))
			return PARSED_MALFORMED;
		p->key.sport = bpf_ntohs(tcp->source);
		p->key.dport = bpf_ntohs(tcp->dest);
		p->tcp_flags = ((__u8 *)tcp)[13];
	} else {
		struct udphdr *udp = header(skb, p->l4);

		if ((void *)(udp + 1) > data_end(skb))
			return PARSED_MALFORMED;
		p->key.sport = bpf_ntohs(udp->source);
		p->key.dport = bpf_ntohs(udp->dest);
		p->tcp_flags = 0;
	}
	return PARSED_OK;
}
