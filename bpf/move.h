/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Moves entries from flows to flows_next, a piece at a time that user space read from flows and
 * laid before the program. One piece at a time, and only once all programs are in phase NEXT. A
 * piece that began is ended, whatever becomes of user space.
 */
#pragma once

/* What became of the entries, since the program was loaded. */
volatile __u32 moved = 0;
volatile __u32 move_later = 0; /* changed under it, or about to end: the next walk finds them */
volatile __u32 move_full = 0;  /* flows_next had no room */

/* Programs that held the entry as it was moved wrote to the one that was left: their last packet
 * may be newer than the copy says.
 */
static __always_inline void catch_up(const struct flow_key *key, const struct flow *left)
{
	struct flow *f = bpf_map_lookup_elem(&flows_next, key);

	if (f && (__s32)(left->seen - f->seen) > 0)
		f->seen = left->seen;
}

/* Puts a copy in flows_next that is not valid yet. NULL: there is no room. */
static __always_inline struct flow *copy_to_next(const struct flow_key *key, struct flow *copy)
{
	struct flow *f;
	bool is_new = !bpf_map_update_elem(&flows_next, key, copy, BPF_NOEXIST);

	f = bpf_map_lookup_elem(&flows_next, key);
	if (!f || is_new)
		return f;
	if (!claim(f)) /* else a copy of a former walk, which was withdrawn */
		return NULL;
	fill(f, copy);
	return f;
}

/*
 * Moves a live entry. Up to the exchange flows has it, from then on flows_next: the exchange fails
 * if state or backend are not those of the copy any more. What is left keeps all but its state and
 * the flag that is counted, as programs may be amid a packet of it.
 */
static __always_inline void move_entry(const struct flow_key *key, struct flow *f, __u64 old)
{
	__u32 word = old, pending = (word | FLOW_MOVED << 8) + STATE_PENDING;
	struct flow copy = *f, *to;

	copy.state = pending;
	copy.flags = pending >> 8;
	copy.port = pending >> 16;
	copy.backend = old >> 32;
	to = copy_to_next(key, &copy);
	if (!to) {
		move_full++;
		return;
	}
	if (replace_counted(f, old, old - word + with_state(word & ~HALF_OPEN, STATE_MOVED))) {
		replace_word(to, pending, pending & ~STATE_PENDING); /* unless a packet did */
		moved++;
		return;
	}
	move_later++;
	/* nothing hangs on this one */
	if (replace_word(to, pending, with_state(pending & ~(FLOW_DIRECT << 8), STATE_DEAD)))
		to->seen = now();
}

static long move_place(__u32 i, void *ctx __attribute__((unused)))
{
	struct flow_key *met = bpf_map_lookup_elem(&piece_keys, &i);
	struct flow_key key;
	struct flow *f;
	__u64 old;

	if (!met)
		return 1;
	key = *met;
	f = bpf_map_lookup_elem(&flows, &key);
	if (!f)
		return 0;
	old = load_counted(f);
	if (is_live(old)) {
		move_entry(&key, f, old);
	} else if (state_of(old) == STATE_MOVED) {
		catch_up(&key, f);
	} else if (state_of(old) == STATE_DEAD &&
		   replace_word(f, old, with_state(old, STATE_MOVED))) {
		bury(&key, old);
	} else {
		move_later++;
	}
	return 0;
}

SEC("syscall")
int move_piece(void *ctx __attribute__((unused)))
{
	bpf_loop(piece_entries, move_place, NULL, 0);
	return 0;
}
