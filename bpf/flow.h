/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A flow's entries: the keys that lead from one to another, state, and their place in the load. */
#pragma once

/* state, flags and port as one word: what cmpxchg works on. */
static __always_inline __u32 *word_of(struct flow *f)
{
	return (__u32 *)&f->state;
}

static __always_inline __u32 load_word(struct flow *f)
{
	return *(volatile __u32 *)word_of(f);
}

static __always_inline bool replace_word(struct flow *f, __u32 old, __u32 new)
{
	return __sync_val_compare_and_swap(word_of(f), old, new) == old;
}

/*
 * The word and the hint beside it, in the high half: what a count depends on. A change of either
 * goes by both as they are, so that the count is taken from where it stands and no other flow's.
 */
static __always_inline __u64 *counted_of(struct flow *f)
{
	return (__u64 *)&f->state;
}

static __always_inline __u64 load_counted(struct flow *f)
{
	return *(volatile __u64 *)counted_of(f);
}

static __always_inline bool replace_counted(struct flow *f, __u64 old, __u64 new)
{
	return __sync_val_compare_and_swap(counted_of(f), old, new) == old;
}

static __always_inline __u8 state_of(__u32 word)
{
	return word & 0xff;
}

static __always_inline bool is_live(__u32 word)
{
	return state_of(word) < STATE_DEAD;
}

static __always_inline __u32 with_state(__u32 word, enum flow_state state)
{
	return (word & ~0xffu) | state;
}

/* Ages from here on are the future: a packet on another CPU may be newer than t. */
#define AGE_FUTURE (~0u << 16)

/* Half a wrap of 32-bit jiffies is past too: a daemon may have been away for weeks. */
static __always_inline bool older(const struct flow *f, __u32 t, __u32 seconds)
{
	__u32 age = t - f->seen;

	return age > seconds * hz && age < AGE_FUTURE;
}

/* A live entry, or NULL: what is dead is as good as absent. */
static __always_inline struct flow *find(const struct flow_key *key)
{
	struct flow *f = bpf_map_lookup_elem(&flows, key);

	return f && is_live(load_word(f)) ? f : NULL;
}

/* What an entry of this state is in the word of its backend's load. */
static __always_inline __u64 one_entry(__u8 state)
{
	return is_active(state) ? 1 : 1ull << 32;
}

/*
 * Adds to the load of a backend. Its number of entries as a whole says whether it is overloaded, as
 * in IPVS: from upper on, until there are fewer than lower.
 */
static __always_inline void add_load(__u32 id, __u64 n)
{
	struct backend_load *l = bpf_map_lookup_elem(&load, &id);
	struct backend *b = backend_at(id);
	__u32 all, lower;
	__u64 sum;

	if (!l || !b)
		return;
	sum = __sync_fetch_and_add((__u64 *)&l->active, n) + n;
	if (!b->upper)
		return;
	all = (__u32)sum + (__u32)(sum >> 32);
	lower = b->lower ? b->lower : b->upper - b->upper / 4;
	if (all >= b->upper)
		l->overloaded = 1;
	else if (all < lower)
		l->overloaded = 0;
}

/*
 * The backend that the flow has now, if the hint is another's; NULL: gone. A count stands where the
 * hint says, so who changes the hint moves it. What is not live is left alone: while a new flow is
 * filled in, its hash is not yet the hint's.
 */
static __noinline struct backend *mend_hint(struct flow *f)
{
	__u64 hash, old;
	__u8 state;
	__u32 *id;

	if (!f)
		return NULL;
	old = load_counted(f); /* before the hash, which is written before it */
	if (!is_live(old))
		return NULL;
	hash = f->backend_hash;
	id = bpf_map_lookup_elem(&backend_ids, &hash);
	if (!id)
		return NULL;
	state = state_of(old);
	if (replace_counted(f, old, (__u64)*id << 32 | (__u32)old) &&
	    state < STATE_REPLY) { /* counted: a forward entry */
		add_load(old >> 32, -one_entry(state));
		add_load(*id, one_entry(state));
	}
	return backend_at(*id);
}

/* The flow's backend: the hint's, else the one that its hash has now; NULL: gone. */
static __always_inline struct backend *backend_of(struct flow *f)
{
	struct backend *b = backend_at(f->backend);

	return b && b->hash == f->backend_hash ? b : mend_hint(f);
}

static __always_inline struct half_open_ring *ring(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&half_open_ends, &zero);
}

#define HALF_OPEN (FLOW_HALF_OPEN << 8) /* in the word */

/* Counts a flow that is no longer half-open: the caller took the flag. */
static __always_inline void count_settled(void)
{
	struct half_open_ring *r = ring();

	if (r)
		__sync_fetch_and_add(&r->count, -1);
}

/* Its client is there: nothing displaces the flow any more. Returns the word as it is then. */
static __always_inline __u32 settle(struct flow *f, __u32 word)
{
	if (!(word & HALF_OPEN) || !replace_word(f, word, word & ~HALF_OPEN))
		return load_word(f);
	count_settled();
	return word & ~HALF_OPEN;
}

/* Moves a forward entry to another state, and its count with it. False: somebody else did. */
static __always_inline bool change_state(struct flow *f, __u32 word, __u8 state)
{
	__u64 old, n = -one_entry(state_of(word));
	__u32 id, to = with_state(word, state);

	backend_of(f); /* a stale hint moves the count */
	if (state >= STATE_DEAD)
		to &= ~HALF_OPEN;
	old = load_counted(f);
	if ((__u32)old != word || !replace_counted(f, old, old - word + to))
		return false;
	if ((word ^ to) & HALF_OPEN)
		count_settled();
	if (state < STATE_DEAD)
		n += one_entry(state);
	id = old >> 32; /* also if it is gone: what was counted is taken back */
	if (id && n)
		add_load(id, n);
	return true;
}

/*
 * First step of an entry's end: nobody sees it; the sweeper deletes it a second later. For entries
 * that are not counted: any but the forward one, for which there is retire.
 */
static __always_inline bool discard(struct flow *e)
{
	__u32 word = load_word(e);

	if (!is_live(word) || !replace_word(e, word, with_state(word, STATE_DEAD)))
		return false;
	e->seen = now();
	return true;
}

static __always_inline void follow_tcp(struct flow *f, __u8 tcp_flags, enum direction dir)
{
	__u32 word = load_word(f);
	__u8 to;

	if (!is_live(word))
		return;
	if (dir == IN && (tcp_flags & (TCP_ACK | TCP_SYN | TCP_RST)) == TCP_ACK)
		word = settle(f, word);
	if (!is_live(word))
		return;
	to = next_state(state_of(word), tcp_flags, dir);
	if (to != state_of(word))
		change_state(f, word, to); /* who loses saw the same packet's neighbour: fine */
}

/* The key of a packet from one end to another, in a position. */
static __always_inline void make_key(struct flow_key *k, const addr_t saddr, __u16 sport,
				     const addr_t daddr, __u16 dport, const struct flow_key *proto,
				     enum position position)
{
	copy_addr(k->saddr, saddr);
	copy_addr(k->daddr, daddr);
	k->sport = sport;
	k->dport = dport;
	k->proto = proto->proto;
	k->position = position;
	k->pad = 0;
}

/* The same tuple in another position. */
static __always_inline void key_at(struct flow_key *k, const struct flow_key *key,
				   enum position position)
{
	make_key(k, key->saddr, key->sport, key->daddr, key->dport, key, position);
}

/* The tuple of the packets that answer. */
static __always_inline void answer_key(struct flow_key *k, const struct flow_key *key,
				       enum position position)
{
	make_key(k, key->daddr, key->dport, key->saddr, key->sport, key, position);
}

/* E4 of the flow that has key as E1 and leads to addr and port; not if it is resourced. */
static __always_inline void reply_key(struct flow_key *r, const struct flow_key *key,
				      const addr_t addr, __u16 port)
{
	make_key(r, addr, port, key->saddr, key->sport, key, POSITION_E4);
}

/*
 * E1 of the flow whose E4 is r under key. False: it is resourced, and what knows the client's port
 * is not there.
 */
static __always_inline bool forward_key(struct flow_key *k, const struct flow_key *key,
					const struct flow *r)
{
	__u16 sport = key->dport;
	struct flow *r4;

	if (r->flags & FLOW_RESOURCED) {
		key_at(k, key, POSITION_R4);
		r4 = find(k);
		if (!r4)
			return false;
		sport = r4->port;
	}
	make_key(k, key->daddr, sport, r->addr, r->port, key, POSITION_E1);
	return true;
}

/* Whether E4 entry r is of the flow with this E1. */
static __always_inline bool replies_to(const struct flow *r, const struct flow_key *e1)
{
	return same_addr(r->addr, e1->daddr) && r->port == e1->dport;
}

/* Bucket of a client among those whose direct connections were resourced. */
static __always_inline __u32 *resourced_of(const struct flow_key *key)
{
	__u32 i = (fold_addr(key->saddr) + key->sport) * GOLDEN_32 >> 20;

	return bpf_map_lookup_elem(&resourced, &i);
}

static __always_inline void count_resourced(const struct flow_key *key, __s32 n)
{
	__u32 *bucket = resourced_of(key);

	if (bucket)
		__sync_fetch_and_add(bucket, n);
}

/*
 * Both steps of an entry's end at once. Only where its packets were never answered: a program on
 * another CPU may still hold a pointer that comes to show another flow.
 */
static __always_inline void delete_entry(const struct flow_key *key, struct flow *e)
{
	__u32 word = load_word(e);

	if (is_live(word) && replace_word(e, word, with_state(word, STATE_CLAIMED)))
		bpf_map_delete_elem(&flows, key);
}

/* Ends an entry that is not a forward one, at once or in two steps. */
static __always_inline void end_entry(const struct flow_key *key, struct flow *e, bool at_once)
{
	if (at_once)
		delete_entry(key, e);
	else
		discard(e);
}

/* Ends E2 and E3 of the masqueraded flow whose E4 is under r. k is room: the stack is short here.
 */
static __always_inline void end_masquerade(const struct flow_key *r, struct flow_key *k,
					   bool at_once)
{
	struct flow *e2, *e3;

	answer_key(k, r, POSITION_E2);
	e2 = find(k);
	if (!e2)
		return;
	make_key(k, r->saddr, r->sport, e2->addr, e2->port, r, POSITION_E3);
	e3 = find(k);
	if (e3 && same_addr(e3->addr, r->daddr) && e3->port == r->dport)
		end_entry(k, e3, at_once);
	answer_key(k, r, POSITION_E2);
	end_entry(k, e2, at_once);
}

/* Ends all other entries of the flow f, which the caller has claimed, under its key. */
static __noinline void end_replies(const struct flow_key *key, struct flow *f, bool at_once)
{
	struct flow_key k, at;
	struct flow *e;

	if (!key || !f)
		return;
	reply_key(&k, key, f->addr, f->port);
	if (f->flags & FLOW_RESOURCED) {
		key_at(&at, key, POSITION_R1);
		e = find(&at);
		if (!e)
			return;
		k.dport = e->port;
		end_entry(&at, e, at_once);
		key_at(&at, &k, POSITION_R4);
		e = find(&at);
		if (e)
			end_entry(&at, e, at_once);
	}
	e = find(&k);
	if (!e || !replies_to(e, key))
		return;
	if (e->flags & FLOW_MASQUERADE)
		end_masquerade(&k, &at, at_once);
	end_entry(&k, e, at_once);
}

/*
 * First step of a flow's end: counted out at once, with all its entries dead; the sweeper deletes
 * them a second later. Claimed meanwhile, as only one CPU may undo what hangs on it. False:
 * somebody else changed its state.
 */
static __always_inline bool retire(const struct flow_key *key, struct flow *f, __u32 word)
{
	if (!change_state(f, word, STATE_CLAIMED))
		return false;
	end_replies(key, f, false);
	f->seen = now();
	*(volatile __u32 *)word_of(f) = with_state(word & ~HALF_OPEN, STATE_DEAD);
	return true;
}
