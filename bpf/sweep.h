/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The sweeper: one walk over flows in pieces. A piece is one read of an iterator, which emits a
 * byte every so many entries, so that the read returns and the next one resumes where it was.
 * Kernels that refuse iterators over elements have pieces that user space reads and lays before the
 * second program. Of the two, only what the kernel takes is loaded.
 */
#pragma once

/* The parts of the kernel's iterator context that are used; CO-RE finds them. */
struct seq_file;

struct bpf_iter_meta {
	struct seq_file *seq;
} __attribute__((preserve_access_index));

struct bpf_iter__bpf_map_elem {
	struct bpf_iter_meta *meta;
	struct bpf_map *map;
	void *key;
	void *value;
} __attribute__((preserve_access_index));

/* Entries walked for each byte emitted. */
#define SWEEP_STRIDE 64

volatile __u32 sweep_walked = 0;

/* Second step of an entry's end. */
static __always_inline void sweep_dead(struct flow_key *key, struct flow *f, __u32 word, __u32 t)
{
	if (!older(f, t, 1) || !replace_word(f, word, with_state(word, STATE_CLAIMED)))
		return;
	if (f->flags & FLOW_DIRECT && key->position == POSITION_E1)
		count_resourced(key, -1);
	delete_flow(key);
}

/* Whether the forward entry that a reply entry belongs to is there. */
static __always_inline bool has_forward(const struct flow_key *key, const struct flow *r)
{
	struct flow_key k;
	struct flow *f;

	if (!forward_key(&k, key, r))
		return false;
	f = entry_of(&k);
	return f && same_addr(f->addr, key->saddr) && f->port == key->sport;
}

/* Whether the entry that another was made for is there: E4, or for R1 and R4 that of their tuple.
 */
static __noinline bool has_owner(const struct flow_key *key, const struct flow *e)
{
	struct flow_key k;

	if (!key || !e)
		return true;
	if (key->position == POSITION_R1 || key->position == POSITION_R4) {
		key_at(&k, key, key->position == POSITION_R1 ? POSITION_E1 : POSITION_E4);
		return entry_of(&k) != NULL;
	}
	if (key->position == POSITION_E2)
		answer_key(&k, key, POSITION_E4);
	else
		make_key(&k, key->saddr, key->sport, e->addr, e->port, key, POSITION_E4);
	return find(&k) != NULL;
}

#define OWNED_AFTER 10 /* seconds after which what an entry belongs to must be there */

/* An entry without what it belongs to lost a race to exist. Age first: it costs no lookup. */
static __always_inline void sweep_other(struct flow_key *key, struct flow *e, __u32 word, __u32 t)
{
	if (!older(e, t, OWNED_AFTER))
		return;
	if (key->position == POSITION_E4 ? has_forward(key, e) : has_owner(key, e))
		return;
	/* as it was when the walk met it: meanwhile it may have become another flow's */
	if (replace_word(e, word, with_state(word, STATE_DEAD)))
		e->seen = t;
}

/* Set while backends are gone whose flows are to be ended. */
volatile __u32 flush_lost = 0;

/* Whether a flow is to be ended as its backend is gone. */
static __noinline bool is_lost(struct flow *f)
{
	struct service *svc;
	struct backend *b;

	if (!f)
		return false;
	b = backend_of(f);
	if (!b || b->state == BACKEND_ACTIVE)
		return false;
	svc = bpf_map_lookup_elem(&services, &b->service);
	return svc && svc->options & SERVICE_LOST_RESET;
}

/* Seconds for which an idle flow of this state lives; 0: for ever. */
static __always_inline __u32 timeout_of(__u8 state)
{
	__u32 zero = 0;
	struct clocks *c = bpf_map_lookup_elem(&meta, &zero);

	return c ? c->timeouts[state & 15] : 0;
}

/* Whether there may be something to do with an entry: most are passed at this. */
static __always_inline bool may_be_due(const struct flow *f, __u8 position, __u32 t)
{
	__u32 seconds = OWNED_AFTER;

	if (f->state == STATE_DEAD) {
		seconds = 1;
	} else if (position == POSITION_E1) {
		if (f->flags & FLOW_AFFINITY || flush_lost)
			return true;
		seconds = timeout_of(f->state);
	}
	return f->state != STATE_CLAIMED && seconds && older(f, t, seconds);
}

static __always_inline void sweep_forward(struct flow_key *key, struct flow *f, __u32 word, __u32 t)
{
	__u32 seconds = timeout_of(state_of(word));
	struct flow_key k;
	struct flow *r;

	if (word >> 8 & FLOW_AFFINITY)
		prolong(key, f);
	if (flush_lost && is_lost(f)) {
		retire(key, f, word);
		return;
	}
	if (!seconds || !older(f, t, seconds))
		return;
	reply_key(&k, key, f->addr, f->port);
	if (word >> 8 & FLOW_RESOURCED) {
		struct flow_key at;
		struct flow *r1;

		key_at(&at, key, POSITION_R1);
		r1 = find(&at);
		if (r1)
			k.dport = r1->port;
	}
	r = find(&k);
	if (r && !older(r, t, seconds))
		return;
	retire(key, f, word);
}

/*
 * Does what is due about an entry as a walk met it. What the walk shows may change under it: a word
 * is changed under its key alone.
 */
static __always_inline void sweep_entry(const struct flow_key *met, const struct flow *value,
					__u32 t)
{
	struct flow_key key;
	struct flow *f;
	__u32 word;

	if (!may_be_due(value, met->position, t))
		return;
	key = *met;
	f = entry_of(&key);
	word = f ? load_word(f) : STATE_CLAIMED;
	if (state_of(word) == STATE_DEAD)
		sweep_dead(&key, f, word, t);
	else if (is_live(word) && key.position == POSITION_E1)
		sweep_forward(&key, f, word, t);
	else if (is_live(word))
		sweep_other(&key, f, word, t);
}

SEC("iter/bpf_map_elem")
int sweep(struct bpf_iter__bpf_map_elem *ctx)
{
	struct flow_key *key = ctx->key;
	struct flow *value = ctx->value;
	__u8 byte = 0;

	if (!key || !value)
		return 0;
	if (++sweep_walked % SWEEP_STRIDE == 0)
		bpf_seq_write(ctx->meta->seq, &byte, sizeof(byte));
	sweep_entry(key, value, now());
	return 0;
}

/* How many places of piece_keys and piece_flows hold entries. */
volatile __u32 piece_entries = 0;

static long sweep_place(__u32 i, void *ctx __attribute__((unused)))
{
	struct flow_key *key = bpf_map_lookup_elem(&piece_keys, &i);
	struct flow *value = bpf_map_lookup_elem(&piece_flows, &i);

	if (!key || !value)
		return 1;
	sweep_entry(key, value, now());
	return 0;
}

SEC("syscall")
int sweep_piece(void *ctx __attribute__((unused)))
{
	sweep_walked += piece_entries;
	bpf_loop(piece_entries, sweep_place, NULL, 0);
	return 0;
}
