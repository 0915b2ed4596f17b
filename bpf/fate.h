/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What becomes of a packet whose flow is there: it may want another backend, or end. */
#pragma once

/* What becomes of a packet whose flow is there. */
enum fate {
	FATE_KEEP, /* goes on */
	FATE_END,  /* the flow ends, and the packet may begin another */
	FATE_DROP,
};

/* Whether it takes new flows, however many it has. */
static __always_inline bool serves(const struct backend *b)
{
	return b->state == BACKEND_ACTIVE && b->weight && b->outside != (POOL_CLUSTER | POOL_LOCAL);
}

/* A SYN of a flow's tuple: "port reuse" in docs/packet-path.md. */
static __always_inline bool wants_pick(__u32 word, const struct backend *b, __u8 options)
{
	if (!(options & (SERVICE_REUSE_FINISHED | SERVICE_REUSE_NEVER)))
		return is_finished(state_of(word)) || !b || !serves(b);
	if (options & SERVICE_LOST_RESET && b && !b->weight)
		return true;
	return options & SERVICE_REUSE_FINISHED && is_finished(state_of(word)) &&
	       !(word >> 8 & FLOW_AFFINITY);
}

/*
 * The same of a direct connection, which has nobody's backend, to a port that may be a node port:
 * what begins there is for the frontend, if there is one by now.
 */
static __always_inline enum fate fate_of_direct(const struct packet *p, __u32 word)
{
	bool tcp = p->key.proto == IPPROTO_TCP;

	if (tcp && !is_syn(p->tcp_flags))
		return FATE_KEEP;
	if (tcp && is_finished(state_of(word)))
		return FATE_END;
	return find_frontend(p) ? FATE_END : FATE_KEEP;
}

static __always_inline enum fate fate_of(const struct packet *p, __u32 word,
					 const struct backend *b)
{
	struct service *svc = b ? bpf_map_lookup_elem(&services, &b->service) : NULL;
	bool tcp = p->key.proto == IPPROTO_TCP;
	__u8 options = svc ? svc->options : 0;

	if (word >> 8 & FLOW_DIRECT)
		return fate_of_direct(p, word);
	if (tcp && is_syn(p->tcp_flags) && wants_pick(word, b, options))
		return FATE_END;
	if (b && b->state == BACKEND_ACTIVE)
		return FATE_KEEP;
	if (options & SERVICE_LOST_DROP)
		return FATE_DROP;
	if (tcp)
		return options & SERVICE_LOST_RESET ? FATE_END : FATE_KEEP;
	/* if the service is gone too, the flow runs on until its timeout */
	return find_frontend(p) ? FATE_END : FATE_KEEP;
}

/*
 * What becomes of a packet whose flow may want another backend: it is a SYN, or the backend does
 * not serve. A flow that ends has ended.
 */
__noinline enum fate reconsider(struct packet *p)
{
	enum fate fate;
	struct flow_key k;
	struct flow *f;
	__u32 word;

	if (!p)
		return FATE_DROP;
	key_at(&k, &p->key, POSITION_E1); /* Linux 6.1 looks up no key that is not its own */
	f = find(&k);
	if (!f)
		return FATE_END;
	word = load_word(f);
	fate = fate_of(p, word, backend_of(f));
	if (fate == FATE_END)
		retire(&k, f, word);
	return fate;
}
