/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A flow's life: its pair of entries, its state, its place in the backend's load. */
#pragma once

/*
 * The TCP state machine of IPVS (docs/packet-path.md): by direction and the strongest flag, the
 * next state for each state NONE ... SYNACK.
 */
#define NO STATE_NONE
#define ES STATE_ESTABLISHED
#define SS STATE_SYN_SENT
#define SR STATE_SYN_RECV
#define FW STATE_FIN_WAIT
#define TW STATE_TIME_WAIT
#define CL STATE_CLOSE
#define CW STATE_CLOSE_WAIT
#define LA STATE_LAST_ACK
#define LI STATE_LISTEN
#define SA STATE_SYNACK

enum direction { IN = 0, OUT = 4 };

enum strongest { ON_SYN = 0, ON_FIN = 1, ON_ACK = 2, ON_RST = 3 };

static const __u8 tcp_next[8][16] = {
	/* from              NO  ES  SS  SR  FW  TW  CL  CW  LA  LI  SA */
	[IN + ON_SYN] = {SR, ES, ES, SR, SR, SR, SR, SR, SR, SR, SR},
	[IN + ON_FIN] = {CL, CW, SS, TW, TW, TW, CL, CW, LA, LI, TW},
	[IN + ON_ACK] = {ES, ES, SS, ES, FW, TW, CL, CW, CL, LI, ES},
	[IN + ON_RST] = {CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, SR},
	[OUT + ON_SYN] = {SS, ES, SS, SR, SS, SS, SS, SS, SS, LI, SR},
	[OUT + ON_FIN] = {TW, FW, SS, TW, FW, TW, CL, TW, LA, LI, TW},
	[OUT + ON_ACK] = {ES, ES, SS, ES, FW, TW, CL, CW, LA, ES, ES},
	[OUT + ON_RST] = {CL, CL, SS, CL, CL, TW, CL, CL, CL, CL, CL},
};

/* Seconds without a packet after which an entry of this state ends: IPVS's defaults. */
static const __u16 timeouts[16] = {
	[NO] = 2,  [ES] = 900, [SS] = 120, [SR] = 60,  [FW] = 120, [TW] = 120,
	[CL] = 10, [CW] = 60,  [LA] = 30,  [LI] = 120, [SA] = 120, [STATE_UDP] = 300,
};

/* state, flags and port as one word: what cmpxchg works on. */
static __always_inline __u32 *word_of(struct flow *f)
{
	return (__u32 *)&f->state;
}

static __always_inline __u32 load_word(struct flow *f)
{
	return *(volatile __u32 *)word_of(f);
}

static __always_inline bool is_live(__u32 word)
{
	return (word & 0xff) < STATE_DEAD;
}

static __always_inline bool is_active(__u8 state)
{
	return state == ES || state == SS || state == SR || state == SA;
}

/* Id of the flow's backend: the hint, else the id that its hash has now; 0: gone. */
static __always_inline __u32 backend_of(struct flow *f)
{
	struct backend *b = backend_at(f->backend);
	__u64 hash = f->backend_hash;
	__u32 *id;

	if (b && b->hash == hash)
		return f->backend;
	id = bpf_map_lookup_elem(&backend_ids, &hash);
	if (!id)
		return 0;
	f->backend = *id;
	return *id;
}

static __always_inline void count_entry(__u32 id, __u8 state, __s32 n)
{
	struct backend_load *l = bpf_map_lookup_elem(&load, &id);

	if (l)
		__sync_fetch_and_add(is_active(state) ? &l->active : &l->inactive, n);
}

/* Moves a forward entry to another state, and its count with it. False: somebody else did. */
static __always_inline bool change_state(struct flow *f, __u32 word, __u8 state)
{
	__u8 old = word & 0xff;
	__u32 id;

	if (__sync_val_compare_and_swap(word_of(f), word, (word & ~0xffu) | state) != word)
		return false;
	if (state < STATE_DEAD && is_active(state) == is_active(old))
		return true;
	id = backend_of(f);
	if (!id)
		return true;
	count_entry(id, old, -1);
	if (state < STATE_DEAD)
		count_entry(id, state, 1);
	return true;
}

/* First step of the end: counted out at once, deleted by the sweeper a second later. */
static __always_inline bool retire(struct flow *f, __u32 word)
{
	if (!change_state(f, word, STATE_DEAD))
		return false;
	f->seen = now();
	return true;
}

static __always_inline void follow_tcp(struct flow *f, __u8 tcp_flags, enum direction dir)
{
	__u32 word = load_word(f), row = dir + ON_ACK;
	__u8 from = word & 15, to;

	if (!is_live(word))
		return;
	if (tcp_flags & TCP_RST)
		row = dir + ON_RST;
	else if (tcp_flags & TCP_SYN)
		row = dir + ON_SYN;
	else if (tcp_flags & TCP_FIN)
		row = dir + ON_FIN;
	to = tcp_flags & (TCP_RST | TCP_SYN | TCP_FIN | TCP_ACK) ? tcp_next[row & 7][from] : CL;
	if (to != from)
		change_state(f, word, to); /* who loses saw the same packet's neighbour: fine */
}

/* The key under which the backend's packets are seen. */
static __always_inline void reply_key(struct flow_key *r, const struct flow_key *key,
				      const addr_t addr, __u16 port)
{
	copy_addr(r->saddr, addr);
	copy_addr(r->daddr, key->saddr);
	r->sport = port;
	r->dport = key->sport;
	r->proto = key->proto;
	r->position = POSITION_E4;
	r->pad = 0;
}

/* The key under which the client's packets are seen, from a reply's key and what it rewrites to. */
static __always_inline void forward_key(struct flow_key *k, const struct flow_key *reply,
					const struct flow *r)
{
	copy_addr(k->saddr, reply->daddr);
	copy_addr(k->daddr, r->addr);
	k->sport = reply->dport;
	k->dport = r->port;
	k->proto = reply->proto;
	k->position = POSITION_E1;
	k->pad = 0;
}

/* A new flow, before it is in the map. */
struct draft {
	struct flow_key reply_key;
	struct flow flow;
};

/*
 * Inserts the reply entry of a draft. An entry that rewrites to the same VIP is as good: another
 * CPU's, or what a former flow of this tuple left.
 */
static __always_inline enum drop_reason insert_reply(const struct flow_key *key, struct draft *d)
{
	struct flow r = d->flow, *old;
	long err;

	copy_addr(r.addr, key->daddr);
	r.port = key->dport;
	r.state = STATE_REPLY;
	r.packets = 0;
	r.bytes = 0;
	err = bpf_map_update_elem(&flows, &d->reply_key, &r, BPF_NOEXIST);
	if (!err)
		return DROP_NONE;
	old = bpf_map_lookup_elem(&flows, &d->reply_key);
	if (!old)
		return DROP_FLOWS_FULL;
	if (!same_addr(old->addr, key->daddr) || old->port != key->dport)
		return DROP_REPLY_TAKEN;
	old->seen = r.seen; /* keeps the sweeper off until the forward entry is there */
	old->flags = 0;
	old->backend = r.backend;
	old->service_hash = r.service_hash;
	old->backend_hash = r.backend_hash;
	return DROP_NONE;
}

/*
 * Takes over a dead entry of the same key in place: nothing is deleted, so no CPU's pointer comes
 * to show another key.
 */
static __always_inline bool revive(const struct flow_key *key, struct flow *f, struct draft *d)
{
	struct flow_key old;
	struct flow *r;
	__u32 word = load_word(f);

	if ((word & 0xff) != STATE_DEAD)
		return false;
	if (__sync_val_compare_and_swap(word_of(f), word, (word & ~0xffu) | STATE_CLAIMED) != word)
		return false;
	if (!same_addr(f->addr, d->flow.addr) || f->port != d->flow.port) {
		reply_key(&old, key, f->addr, f->port);
		r = bpf_map_lookup_elem(&flows, &old);
		if (r && same_addr(r->addr, key->daddr) && r->port == key->dport)
			bpf_map_delete_elem(&flows, &old);
	}
	copy_addr(f->addr, d->flow.addr);
	f->backend = d->flow.backend;
	f->seen = d->flow.seen;
	f->packets = 0;
	f->bytes = 0;
	f->service_hash = d->flow.service_hash;
	f->backend_hash = d->flow.backend_hash;
	*(volatile __u32 *)word_of(f) = *word_of(&d->flow);
	return true;
}

/*
 * Puts the pair in the map and counts it. On DROP_NONE *made is the live forward entry, this
 * packet's or the one of a CPU that was faster.
 */
static __always_inline enum drop_reason insert_flow(const struct flow_key *key, struct draft *d,
						    struct flow **made)
{
	enum drop_reason reason = insert_reply(key, d);
	struct flow *f;

	if (reason != DROP_NONE)
		return reason;
	if (!bpf_map_update_elem(&flows, key, &d->flow, BPF_NOEXIST)) {
		f = bpf_map_lookup_elem(&flows, key);
		goto counted;
	}
	f = bpf_map_lookup_elem(&flows, key);
	if (!f) {
		bpf_map_delete_elem(&flows, &d->reply_key);
		return DROP_FLOWS_FULL;
	}
	if (revive(key, f, d))
		goto counted;
	if (f->backend_hash != d->flow.backend_hash)
		bpf_map_delete_elem(&flows, &d->reply_key);
	if (!is_live(load_word(f)))
		return DROP_BUSY;
	*made = f;
	return DROP_NONE;
counted:
	if (!f)
		return DROP_BUSY;
	count_entry(d->flow.backend, d->flow.state, 1);
	*made = f;
	return DROP_NONE;
}
