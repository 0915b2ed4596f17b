/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The sweeper: one walk over flows, driven by reads of an iterator. Every so many entries it emits
 * a byte, so a read returns and the walk resumes where it was.
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

/* Ages from here on are the future: a packet on another CPU may be newer than t. */
#define AGE_FUTURE (~0u << 16)

/* Half a wrap of 32-bit jiffies is past too: a daemon may have been away for weeks. */
static __always_inline bool older(struct flow *f, __u32 t, __u32 seconds)
{
	__u32 age = t - f->seen;

	return age > seconds * hz && age < AGE_FUTURE;
}

/* A reply entry without its forward entry: its flow was deleted, or lost the race to exist. */
static __always_inline void sweep_reply(struct flow_key *key, struct flow *r, __u32 t)
{
	struct flow_key k;
	struct flow *f;

	if (!older(r, t, 10))
		return;
	forward_key(&k, key, r);
	f = bpf_map_lookup_elem(&flows, &k);
	if (f && same_addr(f->addr, key->saddr) && f->port == key->sport)
		return;
	bpf_map_delete_elem(&flows, key);
}

static __always_inline void delete_pair(struct flow_key *key, struct flow *f)
{
	struct flow_key rk;
	struct flow *r;

	reply_key(&rk, key, f->addr, f->port);
	r = bpf_map_lookup_elem(&flows, &rk);
	if (r && same_addr(r->addr, key->daddr) && r->port == key->dport)
		bpf_map_delete_elem(&flows, &rk);
	bpf_map_delete_elem(&flows, key);
}

static __always_inline void sweep_forward(struct flow_key *key, struct flow *f, __u32 t)
{
	__u32 word = load_word(f), seconds = timeouts[word & 15];
	struct flow_key rk;
	struct flow *r;

	if ((word & 0xff) == STATE_DEAD) {
		__u32 claimed = (word & ~0xffu) | STATE_CLAIMED;

		if (older(f, t, 1) &&
		    __sync_val_compare_and_swap(word_of(f), word, claimed) == word)
			delete_pair(key, f);
		return;
	}
	if ((word & 0xff) == STATE_CLAIMED || !older(f, t, seconds))
		return;
	reply_key(&rk, key, f->addr, f->port);
	r = bpf_map_lookup_elem(&flows, &rk);
	if (r && !older(r, t, seconds))
		return;
	retire(f, word);
}

SEC("iter/bpf_map_elem")
int sweep(struct bpf_iter__bpf_map_elem *ctx)
{
	struct flow_key *k = ctx->key, key;
	struct flow *value = ctx->value, *f;
	__u8 byte = 0;

	if (!k || !value)
		return 0;
	key = *k;
	f = bpf_map_lookup_elem(&flows, &key);
	if (f && key.position == POSITION_E1)
		sweep_forward(&key, f, now());
	else if (f)
		sweep_reply(&key, f, now());
	if (++sweep_walked % SWEEP_STRIDE == 0)
		bpf_seq_write(ctx->meta->seq, &byte, sizeof(byte));
	return 0;
}
