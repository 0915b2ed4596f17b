/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * ICMP errors. One quotes a packet as its sender saw it; who gets it must find the packet that he
 * sent. An error runs against the packet that it quotes: where position P rewrites a packet's one
 * end, it rewrites the error's same end, and the other end of the quoted packet.
 */
#pragma once

#define ICMP_HEADER 8

/* ICMP types (RFC 792, RFC 4443, RFC 4861). */
#define ICMP4_UNREACHABLE   3
#define ICMP4_QUENCH	    4
#define ICMP4_REDIRECT	    5
#define ICMP4_TIME_EXCEEDED 11
#define ICMP4_PARAMETER	    12
#define ICMP6_FIRST_INFO    128 /* errors are below */
#define ICMP6_REDIRECT	    137

enum icmp_kind { ICMP_OTHER, ICMP_ERROR, ICMP_REDIRECT };

static __always_inline enum icmp_kind icmp_kind(struct __sk_buff *skb, const struct packet *p)
{
	__u8 type;

	if (p->part != WHOLE || bpf_skb_load_bytes(skb, p->l4, &type, 1))
		return ICMP_OTHER;
	if (p->key.proto == IPPROTO_ICMP && p->v4) {
		if (type == ICMP4_REDIRECT)
			return ICMP_REDIRECT;
		return type == ICMP4_UNREACHABLE || type == ICMP4_QUENCH ||
				       type == ICMP4_TIME_EXCEEDED || type == ICMP4_PARAMETER
			       ? ICMP_ERROR
			       : ICMP_OTHER;
	}
	if (p->key.proto == IPPROTO_ICMPV6 && !p->v4) {
		if (type == ICMP6_REDIRECT)
			return ICMP_REDIRECT;
		return type && type < ICMP6_FIRST_INFO ? ICMP_ERROR : ICMP_OTHER;
	}
	return ICMP_OTHER;
}

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

/*
 * Rewrites the error's end as position's entry e does with packets, and the quoted packet's other
 * end; port is what the quoted packet's port at the error's end becomes, 0: stays.
 */
static __noinline bool rewrite_error(struct __sk_buff *skb, struct packet *p, struct packet *q,
				     struct flow *e)
{
	enum end end, quoted;
	__u32 diff, sum, at;
	__u16 check;

	if (!p || !q || !e)
		return false;
	end = p->key.position == POSITION_E1 || p->key.position == POSITION_E3 ? DESTINATION
									       : SOURCE;
	quoted = end == SOURCE ? DESTINATION : SOURCE;
	at = p->l4 + 2;
	diff = csum_diff(end == SOURCE ? p->key.saddr : p->key.daddr, e->addr);
	sum = rewrite_quoted(skb, q, e, quoted);
	put_addr(skb, p->l3, p->v4, end, e->addr, diff);
	if (!p->v4)
		sum += fold_csum(diff); /* the pseudo-header's part */
	if (bpf_skb_load_bytes(skb, at, &check, 2))
		return false;
	check = ~fold_csum((__u64)(__u16)~check + sum);
	return bpf_skb_store_bytes(skb, at, &check, 2, 0) == 0;
}

/* Rewrites the port of the quoted packet's end that no address of changes: a resourced flow's. */
static __noinline void rewrite_quoted_port(struct __sk_buff *skb, struct packet *p,
					   struct packet *q, __u16 port, enum end end)
{
	struct flow same = {};
	__u32 sum;
	__u16 check;

	if (!p || !q)
		return;
	copy_addr(same.addr, end == SOURCE ? q->key.saddr : q->key.daddr);
	same.port = port;
	sum = rewrite_quoted(skb, q, &same, end);
	if (bpf_skb_load_bytes(skb, p->l4 + 2, &check, 2))
		return;
	check = ~fold_csum((__u64)(__u16)~check + sum);
	bpf_skb_store_bytes(skb, p->l4 + 2, &check, 2, 0);
}

/* Looks up the flow of the quoted packet as position would see its answer. */
static __always_inline struct flow *find_quoted(struct flow_key *k, const struct packet *q,
						enum position position)
{
	answer_key(k, &q->key, position);
	return find(k);
}

/*
 * Translates the error p, which quotes q, if position knows the flow of q. The flow's packets are
 * not counted and its state stays: an error is no proof of life.
 */
static __noinline bool translate_error(struct __sk_buff *skb, struct packet *p, struct packet *q,
				       enum position position)
{
	struct flow_key k, at;
	struct flow *f, *other;
	bool resourced;

	if (!p || !q)
		return false;
	f = find_quoted(&k, q, position);
	if (!f)
		return false;
	p->key.position = position;
	resourced =
		f->flags & FLOW_RESOURCED && (position == POSITION_E1 || position == POSITION_E4);
	if (!rewrite_error(skb, p, q, f))
		return false;
	if (!resourced)
		return true;
	key_at(&at, &k, position == POSITION_E1 ? POSITION_R1 : POSITION_R4);
	other = find(&at);
	if (!other)
		return true;
	/* the quoted packet came from the other side: the client is its destination at E1 */
	rewrite_quoted_port(skb, p, q, other->port, position == POSITION_E1 ? DESTINATION : SOURCE);
	return true;
}

/* An ICMP packet that comes in, to a VIP or to an address that masquerading uses. */
__noinline enum verdict icmp_in(struct __sk_buff *skb, struct packet *p)
{
	struct packet q = {};

	if (!p || icmp_kind(skb, p) != ICMP_ERROR)
		return VERDICT_PASS;
	q.l3 = p->l4 + ICMP_HEADER;
	q.bytes = p->l3 + p->bytes - q.l3;
	if (!parse_quoted(skb, &q, p->v4))
		return VERDICT_PASS;
	if (!translate_error(skb, p, &q, POSITION_E1))
		translate_error(skb, p, &q, POSITION_E3);
	return VERDICT_PASS;
}

/* Whether a packet between a client and a backend, in either direction, is of a flow. */
static __always_inline bool is_translated(const struct packet *q)
{
	struct flow_key k;

	if (find_quoted(&k, q, POSITION_E4))
		return true;
	key_at(&k, &q->key, POSITION_E4);
	return find(&k) != NULL;
}

/* Where an ICMPv6 redirect quotes the packet: in an option, alone or after the link-layer one. */
static __always_inline __u32 redirected_v6(struct __sk_buff *skb, const struct packet *p)
{
	__u32 at = p->l4 + 40, i;
	__u8 option[2];

	for (i = 0; i < 2; i++) {
		if (bpf_skb_load_bytes(skb, at, option, 2))
			return 0;
		if (option[0] == 4)
			return at + 8;
		at += option[1] * 8;
	}
	return 0;
}

/*
 * An ICMP packet that leaves: an error about a translated packet, or a redirect about one, which
 * the stack makes where it comes and goes by one device: it would have client and backend talk past
 * this node.
 */
__noinline enum verdict icmp_out(struct __sk_buff *skb, struct packet *p)
{
	struct packet q = {};
	enum icmp_kind kind;

	if (!p)
		return VERDICT_PASS;
	kind = icmp_kind(skb, p);
	if (kind == ICMP_OTHER)
		return VERDICT_PASS;
	q.l3 = p->l4 + ICMP_HEADER;
	if (kind == ICMP_REDIRECT && !p->v4)
		q.l3 = redirected_v6(skb, p);
	q.bytes = p->l3 + p->bytes - q.l3;
	if (!q.l3 || !parse_quoted(skb, &q, p->v4))
		return VERDICT_PASS;
	if (kind == ICMP_REDIRECT)
		return is_translated(&q) ? drop(DROP_REDIRECT) : VERDICT_PASS;
	if (!translate_error(skb, p, &q, POSITION_E4))
		translate_error(skb, p, &q, POSITION_E2);
	return VERDICT_PASS;
}
