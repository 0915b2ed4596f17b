/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A flow's forward entry: its state, its backend, and its place in the load. */
#pragma once

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

	if (f && is_live(load_word(f)))
		return f;
	if (!growing)
		return NULL;
	f = in_next(key, f);
	return f && is_live(load_word(f)) ? f : NULL;
}

/*
 * The id of the backend that the flow has now, if the hint is another's; 0: gone. A count stands
 * where the hint says, so who changes the hint moves it. What is not live is left alone: while a
 * new flow is filled in, its hash is not yet the hint's.
 */
__noinline __u32 mend_hint(struct flow *f)
{
	__u64 hash, old;
	__u8 state;
	__u32 id;

	if (!f)
		return 0;
	old = load_counted(f); /* before the hash, which is written before it */
	if (!is_live(old))
		return 0;
	hash = f->backend_hash;
	id = id_of(hash);
	if (!id)
		return 0;
	state = state_of(old);
	if (replace_counted(f, old, (__u64)id << 32 | (__u32)old) &&
	    state < STATE_REPLY) { /* counted: a forward entry */
		add_load(old >> 32, -one_entry(state));
		add_load(id, one_entry(state));
	}
	return id;
}

/* The flow's backend: the hint's, else the one that its hash has now; NULL: gone. */
static __always_inline struct backend *backend_of(struct flow *f)
{
	struct backend *b = backend_at(f->backend);
	__u32 id;

	if (b && b->hash == f->backend_hash)
		return b;
	id = mend_hint(f);
	return id ? backend_at(id) : NULL;
}

static __always_inline struct half_open_ring *ring(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&half_open_ends, &zero);
}

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
