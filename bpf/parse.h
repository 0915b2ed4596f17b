/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* From a packet to a flow key, in two steps: addresses first, so that others' packets leave early.
 */
#pragma once

enum parsed {
	PARSED_OK,
	PARSED_OTHER,	  /* neither TCP nor UDP nor SCTP */
	PARSED_LATER,	  /* not the first fragment: no ports */
	PARSED_EXTENSION, /* an IPv6 extension header that cannot be followed */
	PARSED_MALFORMED,
};

/* Which part of a datagram a packet is. */
enum part { WHOLE, FIRST, LATER };

/* A packet in work. Offsets from skb->data in bytes; key as a hook looks it up. */
struct packet {
	struct flow_key key;
	__u32 l3;
	__u32 l4;
	__u32 bytes; /* of the IP packet, as its device sees it */
	__u32 id;    /* of a fragment's datagram, as it is in the packet */
	bool v4;
	__u8 part;	/* enum part */
	__u8 tcp_flags; /* FIN 1, SYN 2, RST 4, ACK 16 */
	bool ended;	/* there was a flow, and it ended with this packet */
};

/* Of linux/if_packet.h: what a frame's address says. */
#define PACKET_HOST	 0
#define PACKET_OTHERHOST 3

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

#define IP_MF		 0x2000
#define IP_OFFSET	 0x1fff
#define FRAGMENT_OFFSET6 0xfff8

#define MAX_EXTENSIONS 8   /* IPv6 extension headers that are followed */
#define MAX_HEADERS    200 /* where layer 4 may begin at the latest: see header() */

/*
 * The bounds of the packet's linear part. In assembly, as the compiler likes to keep the address of
 * the field, and the verifier takes no pointer into its context but the context itself.
 */
static __always_inline void *data(struct __sk_buff *skb)
{
	void *p;

	asm volatile("%0 = *(u32 *)(%1 + %2)"
		     : "=r"(p)
		     : "r"(skb), "i"(offsetof(struct __sk_buff, data)));
	return p;
}

static __always_inline void *data_end(struct __sk_buff *skb)
{
	void *p;

	asm volatile("%0 = *(u32 *)(%1 + %2)"
		     : "=r"(p)
		     : "r"(skb), "i"(offsetof(struct __sk_buff, data_end)));
	return p;
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

/* A header's place, which is linear as far as the packet goes. */
static __always_inline void *linear(struct __sk_buff *skb, __u32 off, __u32 len)
{
	void *at = header(skb, off);

	if (at + len > data_end(skb)) {
		bpf_skb_pull_data(skb, off + len);
		at = header(skb, off);
	}
	return at;
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

static __always_inline void addrs_v4(struct packet *p, const struct iphdr *ip)
{
	p->v4 = true;
	map_v4(p->key.saddr, ip->saddr);
	map_v4(p->key.daddr, ip->daddr);
}

static __always_inline void addrs_v6(struct packet *p, const struct ipv6hdr *ip6)
{
	p->v4 = false;
	set_addr(p->key.saddr, &ip6->saddr);
	set_addr(p->key.daddr, &ip6->daddr);
}

/* Addresses and family; false: no IP packet, or cut off. */
static __always_inline bool parse_addrs(struct __sk_buff *skb, struct packet *p, __u32 l3)
{
	p->l3 = l3;
	p->bytes = skb->len - l3;
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = linear(skb, l3, sizeof(*ip));

		if ((void *)(ip + 1) > data_end(skb))
			return false;
		addrs_v4(p, ip);
		return true;
	}
	if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip6 = linear(skb, l3, sizeof(*ip6));

		if ((void *)(ip6 + 1) > data_end(skb))
			return false;
		addrs_v6(p, ip6);
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

static __always_inline bool has_ports(__u8 proto)
{
	return proto == IPPROTO_TCP || proto == IPPROTO_UDP || proto == IPPROTO_SCTP;
}

/* The header is read up to end, where the packet's linear part ends. */
static __always_inline enum parsed parse_v4(const struct iphdr *ip, const void *end,
					    struct packet *p)
{
	__u16 frag;

	if ((const void *)(ip + 1) > end || ip->version != 4 || ip->ihl < 5)
		return PARSED_MALFORMED;
	if (!fits(p, bpf_ntohs(ip->tot_len)))
		return PARSED_MALFORMED;
	p->key.proto = ip->protocol;
	p->l4 = p->l3 + ip->ihl * 4;
	frag = bpf_ntohs(ip->frag_off);
	if (!(frag & (IP_MF | IP_OFFSET)))
		return PARSED_OK;
	p->id = ip->id;
	p->part = frag & IP_OFFSET ? LATER : FIRST;
	if (p->part == FIRST)
		return PARSED_OK;
	return has_ports(ip->protocol) ? PARSED_LATER : PARSED_OTHER;
}

/*
 * Follows IPv6 extension headers to the one of layer 4. A routing header that is not through means
 * that the destination is not the final one, which layer 4 sums; AH signs what would be rewritten.
 */
__noinline enum parsed parse_extensions(struct __sk_buff *skb, struct packet *p)
{
	struct {
		__u8 next, len;
		__be16 frag_off; /* or a routing header's type and segments left */
		__be32 id;
	} h;
	__u32 i;

	if (!p)
		return PARSED_MALFORMED;
	for (i = 0; i <= MAX_EXTENSIONS; i++) { /* the last time only looks what follows */
		__u8 type = p->key.proto;

		if (type != IPPROTO_HOPOPTS && type != IPPROTO_ROUTING &&
		    type != IPPROTO_FRAGMENT && type != IPPROTO_DSTOPTS)
			return type == IPPROTO_AH ? PARSED_EXTENSION : PARSED_OK;
		if (bpf_skb_load_bytes(skb, p->l4, &h, sizeof(h)))
			return PARSED_MALFORMED;
		if (type == IPPROTO_ROUTING && bpf_ntohs(h.frag_off) & 0xff)
			return PARSED_EXTENSION;
		p->key.proto = h.next;
		if (type == IPPROTO_FRAGMENT) {
			p->l4 += sizeof(h);
			if (bpf_ntohs(h.frag_off) & (FRAGMENT_OFFSET6 | 1)) { /* not the whole */
				p->id = h.id;
				p->part = bpf_ntohs(h.frag_off) & FRAGMENT_OFFSET6 ? LATER : FIRST;
			}
			if (p->part == LATER) /* the first says what follows the options */
				return has_ports(h.next) || h.next == IPPROTO_DSTOPTS
					       ? PARSED_LATER
					       : PARSED_OTHER;
		} else {
			p->l4 += (h.len + 1) * 8;
		}
		if (p->l4 > MAX_HEADERS)
			return PARSED_EXTENSION;
	}
	return PARSED_EXTENSION;
}

/* As parse_v4, but for extension headers. */
static __always_inline enum parsed parse_v6(const struct ipv6hdr *ip6, const void *end,
					    struct packet *p)
{
	if ((const void *)(ip6 + 1) > end || ip6->version != 6)
		return PARSED_MALFORMED;
	if (ip6->payload_len && !fits(p, sizeof(*ip6) + bpf_ntohs(ip6->payload_len)))
		return PARSED_MALFORMED;
	p->key.proto = ip6->nexthdr;
	p->l4 = p->l3 + sizeof(*ip6);
	return PARSED_OK;
}

/* Bytes of the layer 4 header that are needed; 0: it shows no ports. */
static __always_inline __u32 ports_len(__u8 proto)
{
	if (proto == IPPROTO_TCP)
		return sizeof(struct tcphdr);
	return has_ports(proto) ? sizeof(struct udphdr) : 0;
}

/* Ports and TCP flags, of the layer 4 header at ports. False: it is cut off. */
static __always_inline bool read_ports(const __be16 *ports, const void *end, struct packet *p)
{
	if (p->key.proto == IPPROTO_TCP) {
		if ((const void *)ports + sizeof(struct tcphdr) > end)
			return false;
		p->tcp_flags = ((const __u8 *)ports)[13];
	} else if ((const void *)ports + sizeof(struct udphdr) > end) {
		return false;
	}
	p->key.sport = bpf_ntohs(ports[0]);
	p->key.dport = bpf_ntohs(ports[1]);
	return true;
}

static __always_inline enum parsed parse_ip(struct __sk_buff *skb, struct packet *p)
{
	enum parsed got;

	if (p->v4)
		return parse_v4(header(skb, p->l3), data_end(skb), p);
	got = parse_v6(header(skb, p->l3), data_end(skb), p);
	if (got != PARSED_OK || p->key.proto == IPPROTO_TCP || p->key.proto == IPPROTO_UDP)
		return got;
	return parse_extensions(skb, p);
}

/* Protocol, ports and TCP flags, after parse_addrs. */
static __always_inline enum parsed parse_ports(struct __sk_buff *skb, struct packet *p)
{
	enum parsed got;
	__u32 len;

	p->part = WHOLE;
	p->tcp_flags = 0;
	p->ended = false;
	got = parse_ip(skb, p);
	if (got != PARSED_OK)
		return got;
	len = ports_len(p->key.proto);
	if (!len)
		return PARSED_OTHER;
	if (p->l4 + len > p->l3 + p->bytes || !pull(skb, p->l4 + len))
		return PARSED_MALFORMED;
	return read_ports(header(skb, p->l4), data_end(skb), p) ? PARSED_OK : PARSED_MALFORMED;
}
