/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Fragments. Only the first says the ports: it leaves them in fragments for the later ones. A later
 * one that comes before it is kept in held, and the first sends it after itself, through the same
 * hook again; so any order is right, and nothing waits.
 */
#pragma once

#define MAX_HELD_OF_ONE 64 /* 65,535 bytes in pieces of 1,480 are 45 */

static __always_inline void fragment_key(struct fragment_key *k, const struct packet *p)
{
	copy_addr(k->saddr, p->key.saddr);
	copy_addr(k->daddr, p->key.daddr);
	k->id = p->id;
	/* RFC 8200 section 4.5: in IPv6 only the first says what the datagram holds */
	k->proto = p->v4 ? p->key.proto : 0;
	k->pad[0] = 0;
	k->pad[1] = 0;
	k->pad[2] = 0;
}

static __always_inline struct held *parcel(__u32 which)
{
	return bpf_map_lookup_elem(&parcels, &which);
}

/* Copies the packet from layer 3 on, at most HELD_BYTES. */
static __always_inline bool pack(struct __sk_buff *skb, __u32 l3, struct held *to)
{
	__u32 len = skb->len - l3;

	if (len < sizeof(struct iphdr))
		return false;
	asm volatile("" : "+r"(len)); /* two comparisons: older verifiers bound no copy of len */
	if (len > HELD_BYTES)
		return false;
	to->len = len;
	return bpf_skb_load_bytes(skb, l3, to->bytes, len) == 0;
}

/* The inverse: the packet becomes what was copied. */
static __always_inline bool unpack(struct __sk_buff *skb, __u32 l3, const struct held *from)
{
	__u32 len = from->len;

	if (len < sizeof(struct iphdr))
		return false;
	asm volatile("" : "+r"(len)); /* as above */
	if (len > HELD_BYTES)
		return false;
	return !bpf_skb_change_tail(skb, l3 + len, 0) &&
	       !bpf_skb_store_bytes(skb, l3, from->bytes, len, BPF_F_RECOMPUTE_CSUM);
}

/* Keeps a later fragment until the first comes. False: there is no room for it. */
static __noinline bool hold(struct __sk_buff *skb, const struct fragment_key *k, __u32 l3)
{
	struct held *h = parcel(0);
	struct fragment none = {}, *f;
	struct held_key hk = {};

	if (!k || !h || !pack(skb, l3, h))
		return false;
	bpf_map_update_elem(&fragments, k, &none, BPF_NOEXIST);
	f = bpf_map_lookup_elem(&fragments, k);
	if (!f)
		return false;
	hk.datagram = *k;
	hk.n = __sync_fetch_and_add(&f->held, 1);
	if (hk.n >= MAX_HELD_OF_ONE)
		return false;
	return bpf_map_update_elem(&held, &hk, h, BPF_ANY) == 0;
}

enum later { LATER_KNOWN, LATER_HELD, LATER_LOST };

/* Gives a later fragment the ports of its first. HELD: it goes on when that comes. */
__noinline enum later later_fragment(struct __sk_buff *skb, struct packet *p)
{
	struct fragment_key k;
	struct fragment *f;

	if (!p)
		return LATER_LOST;
	fragment_key(&k, p);
	f = bpf_map_lookup_elem(&fragments, &k);
	if (!f || !f->known) {
		if (!hold(skb, &k, p->l3))
			return LATER_LOST;
		/* the first may have come meanwhile, on another CPU, and gone without it */
		f = bpf_map_lookup_elem(&fragments, &k);
		if (!f || !*(volatile __u32 *)&f->known)
			return LATER_HELD;
	}
	p->key.sport = f->sport;
	p->key.dport = f->dport;
	p->key.proto = f->known;
	return LATER_KNOWN;
}

/* What is known of a fragment's datagram. */
static __noinline struct fragment *datagram_of(const struct packet *p)
{
	struct fragment_key k;

	if (!p)
		return NULL;
	fragment_key(&k, p);
	return bpf_map_lookup_elem(&fragments, &k);
}

struct release {
	struct __sk_buff *skb;
	struct held_key k;
	__u32 l3;
	__u64 flags; /* of bpf_clone_redirect */
};

/*
 * The oldest in held make room for newer ones, also while they are copied: what is sent was there
 * before and after.
 */
static long release_one(__u32 i, struct release *c)
{
	struct held *h;
	bool whole;

	c->k.n = i;
	h = bpf_map_lookup_elem(&held, &c->k);
	whole = h && unpack(c->skb, c->l3, h) && bpf_map_lookup_elem(&held, &c->k) == h;
	if (whole)
		bpf_clone_redirect(c->skb, c->skb->ifindex, c->flags);
	else
		count_drop(DROP_FRAGMENT);
	bpf_map_delete_elem(&held, &c->k);
	return 0;
}

/* Sends the held fragments of a datagram through the hook again. False: the packet is lost. */
static __noinline bool release(struct __sk_buff *skb, const struct fragment_key *k, __u32 l3,
			       __u32 n, __u64 flags)
{
	struct release c = {.skb = skb, .l3 = l3, .flags = flags};
	struct held *own = parcel(1);

	if (!k || !own || !pack(skb, l3, own))
		return true; /* too long to be put aside: the held ones are lost, not this */
	c.k.datagram = *k;
	bpf_loop(n < MAX_HELD_OF_ONE ? n : MAX_HELD_OF_ONE, release_one, &c, 0);
	own = parcel(1);
	return own && unpack(skb, l3, own);
}

/* What the first fragment does for the later ones. False: the packet is lost. */
__noinline bool first_fragment(struct __sk_buff *skb, struct packet *p, __u64 flags)
{
	struct fragment v = {};
	struct fragment_key k;
	struct fragment *f;

	if (!p)
		return true;
	fragment_key(&k, p);
	v.sport = p->key.sport;
	v.dport = p->key.dport;
	v.known = p->key.proto;
	bpf_map_update_elem(&fragments, &k, &v, BPF_NOEXIST);
	f = bpf_map_lookup_elem(&fragments, &k);
	if (!f)
		return true;
	if (f->sport != v.sport || f->dport != v.dport || f->known != v.known) {
		f->sport = v.sport;
		f->dport = v.dport;
		*(volatile __u32 *)&f->known = v.known;
	}
	if (!f->held)
		return true;
	return release(skb, &k, p->l3, __sync_lock_test_and_set(&f->held, 0), flags);
}

/* Gives a fragment its datagram's ports. PASS: they are there. */
static __always_inline enum verdict join(struct __sk_buff *skb, struct packet *p, __u64 flags)
{
	enum later later;

	if (p->part == FIRST)
		return first_fragment(skb, p, flags) ? VERDICT_PASS : drop(DROP_REWRITE);
	later = later_fragment(skb, p);
	if (later == LATER_LOST)
		return drop(DROP_FRAGMENT);
	return later == LATER_HELD ? VERDICT_DROP : VERDICT_PASS;
}
