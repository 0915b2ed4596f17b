/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Half-open flows: nothing shows yet that the client is there, as it is with a flood of forged
 * addresses. They stand in a ring, and the oldest make room: once there are many, for each new one,
 * and when the flow table is full, for any. TCP is no longer half-open with the client's first ACK
 * after its SYN, UDP with the first reply, or with the third datagram a second or more after the
 * first.
 */
#pragma once

/* Places in the ring, a power of 2: what the map was made with. */
const volatile __u32 half_open_places = MAX_HALF_OPEN;

/*
 * Places of the ring that are looked at for one flow to displace: most are of flows that are
 * established by now, and each is passed once.
 */
#define ROOM_ATTEMPTS 512

/* Ends a flow that is still half-open, with its count, and deletes it. False: it is not. */
static __always_inline bool displace(struct work *w)
{
	struct flow *f;
	__u32 word;

	f = entry_of(&w->displaced);
	word = f ? load_word(f) : STATE_DEAD;
	if (!is_live(word) || !(word & HALF_OPEN) || !change_state(f, word, STATE_CLAIMED))
		return false;
	end_replies(&w->displaced, f, true);
	delete_flow(&w->displaced);
	count_drop(DROP_DISPLACED);
	return true;
}

/*
 * Enters a new flow. Who is at its place in the ring has been there for a whole round: it goes if
 * many are half-open, else it stays, and is just not known here any more.
 */
static __noinline void enter_half_open(struct work *w)
{
	struct half_open_ring *r = ring();
	struct flow_key *place;
	__u64 n, tail;
	__u32 at;

	if (!w || !r)
		return;
	__sync_fetch_and_add(&r->count, 1);
	n = __sync_fetch_and_add(&r->next, 1);
	at = n & (half_open_places - 1);
	place = bpf_map_lookup_elem(&half_open, &at);
	if (!place)
		return;
	tail = r->tail;
	if (n - tail >= half_open_places)
		__sync_val_compare_and_swap(&r->tail, tail, n - half_open_places + 1);
	if (n >= half_open_places && r->count > half_open_places / 2) {
		w->displaced = *place;
		/* a former flow of this tuple may have had the place: not this one */
		if (__builtin_memcmp(&w->displaced, &w->key, sizeof(w->key)))
			displace(w);
	}
	*place = w->key;
}

struct room {
	__u32 made; /* 0 or 1 */
};

static long displace_oldest(__u32 i __attribute__((unused)), struct room *c)
{
	struct half_open_ring *r = ring();
	struct flow_key *place;
	struct work *w;
	__u32 at = 0;

	w = bpf_map_lookup_elem(&works, &at);
	if (!r || !w || r->tail >= r->next || !r->count)
		return 1;
	at = __sync_fetch_and_add(&r->tail, 1) & (half_open_places - 1);
	place = bpf_map_lookup_elem(&half_open, &at);
	if (!place)
		return 1;
	w->displaced = *place;
	c->made = displace(w);
	return c->made;
}

/*
 * Deletes the oldest half-open flow, as the table is full, having looked at so many places of the
 * ring. False: there is none.
 */
__noinline bool make_room(__u32 attempts)
{
	struct room c;

	c.made = unknown_zero;
	bpf_loop(attempts, displace_oldest, &c, 0);
	return c.made;
}

/* A datagram of a client that nobody answered. One that keeps sending is no forged address. */
static __noinline void follow_unanswered(const struct packet *p, struct flow *f)
{
	struct flow_key k;
	struct flow *r;
	__u32 word;

	if (!p || !f || f->packets < 2)
		return;
	word = load_word(f);
	reply_key(&k, &p->key, f->addr, f->port);
	r = word >> 8 & FLOW_RESOURCED ? NULL : find(&k);
	if (r && older(r, now(), 1)) /* unanswered: it was seen when it was made */
		settle(f, word);
}
