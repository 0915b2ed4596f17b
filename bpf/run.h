/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a scheduler compiles to: a run in slots, which one of three rules reads (hash.h, select.h).
 * It is a header of two words and then, by rule,
 *
 *   CURSOR  backend ids, two a word, the first in the low half. The header is the cursor, and
 *           {last pass:32, failed:32}, which only wrr needs.
 *   HASH    the same, and SLOT_CLOSED beside those that take nothing new; for mh they are the
 *           backends, to which a table of 16-bit indices leads, four a word, that equal services
 *           share. The header's first word is where it is.
 *   LEAST   a word for each backend: {id:32, weight:16}.
 *
 * A run says all that a pick needs to know but the load: a backend's record may be newer than the
 * run that a packet picks from, and a pick is of one set, not of parts of two.
 */
#pragma once

static __always_inline struct backend *backend_at(__u32 id)
{
	return bpf_map_lookup_elem(&backends, &id);
}

static __always_inline __u64 *word_at(__u32 at)
{
	return bpf_map_lookup_elem(&slots, &at);
}

/* Whether it has a threshold: without, what its load says of one is left over. */
static __always_inline bool is_limited(__u32 id)
{
	struct backend *b = backend_at(id);

	return b && b->upper;
}

/* Whether new flows may go to the backend of a slot. */
static __always_inline bool is_usable(__u32 slot)
{
	struct backend_load *l;

	if (!slot || slot & SLOT_CLOSED)
		return false;
	if (!is_limited(slot))
		return true;
	l = bpf_map_lookup_elem(&load, &slot);
	return l && !l->overloaded;
}

/* What is in slot i of the run at base; 0: nothing. */
static __always_inline __u32 slot(__u32 base, __u32 i)
{
	__u64 *pair = word_at(base + HEADER_WORDS + (i >> 1));

	if (!pair)
		return 0;
	return i & 1 ? *pair >> 32 : (__u32)*pair;
}

/*
 * 0, and the verifier does not know it. Linux before 6.7 checks a callback of bpf_loop with what is
 * on the stack before its first call only, and removes what that makes unreachable. On Linux 6.1
 * all frames from the hook to the callback are 512 bytes, so what callbacks look for is small.
 */
volatile __u32 unknown_zero = 0;
