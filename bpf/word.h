/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The word of a flow entry: its state, and what changes with it. */
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

/* The word and hint of an entry that is being put together, as one write: see wide.h. */
static __always_inline void set_counted(struct flow *f, __u8 state, __u8 flags, __u16 port,
					__u32 backend)
{
	*(wide *)counted_of(f) =
		state | (__u32)flags << 8 | (__u64)port << 16 | (__u64)backend << 32;
}

static __always_inline void set_flags(struct flow *f, __u8 flags)
{
	set_counted(f, f->state, flags, f->port, f->backend);
}

/* When its last packet came, and how many did. */
static __always_inline void set_seen(struct flow *f, __u32 seen, __u32 packets)
{
	*(wide *)&f->seen = seen | (__u64)packets << 32;
}

#define HALF_OPEN (FLOW_HALF_OPEN << 8) /* in the word */

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
