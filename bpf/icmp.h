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
 * Translates the error p, which quotes q, if position knows the flow of q; else ELSEWHERE. The
 * flow's packets are not counted and its state stays: an error is no proof of life.
 */
static __noinline enum verdict translate_error(struct __sk_buff *skb, struct packet *p,
					       struct packet *q, enum position position)
{
	struct flow_key k, at;
	struct flow *f, *other;
	enum verdict verdict;
	bool resourced;

	if (!p || !q)
		return VERDICT_ELSEWHERE;
	f = find_quoted(&k, q, position);
	if (!f)
		return VERDICT_ELSEWHERE;
	p->key.position = position;
	resourced =
		f->flags & FLOW_RESOURCED && (position == POSITION_E1 || position == POSITION_E4);
	verdict = passing(f->flags);
	if (!rewrite_error(skb, p, q, f))
		return VERDICT_ELSEWHERE;
	if (!resourced)
		return verdict;
	key_at(&at, &k, position == POSITION_E1 ? POSITION_R1 : POSITION_R4);
	other = find(&at);
	if (!other)
		return verdict;
	/* the quoted packet came from the other side: the client is its destination at E1 */
	rewrite_quoted_port(skb, p, q, other->port, position == POSITION_E1 ? DESTINATION : SOURCE);
	return verdict;
}

/*
 * An ICMP packet that comes in, to a VIP or to an address that masquerading uses. ELSEWHERE: it is
 * about no flow.
 */
__noinline enum verdict icmp_in(struct __sk_buff *skb, struct packet *p)
{
	struct packet q = {};
	enum verdict verdict;

	if (!p || icmp_kind(skb, p) != ICMP_ERROR)
		return VERDICT_ELSEWHERE;
	q.l3 = p->l4 + ICMP_HEADER;
	q.bytes = p->l3 + p->bytes - q.l3;
	if (!parse_quoted(skb, &q, p->v4))
		return VERDICT_ELSEWHERE;
	verdict = translate_error(skb, p, &q, POSITION_E1);
	return verdict == VERDICT_ELSEWHERE ? translate_error(skb, p, &q, POSITION_E3) : verdict;
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
	if (translate_error(skb, p, &q, POSITION_E4) == VERDICT_ELSEWHERE)
		translate_error(skb, p, &q, POSITION_E2);
	return VERDICT_PASS;
}
