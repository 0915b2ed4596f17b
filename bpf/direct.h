/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Connections from a client to a backend itself. One with the port of a translated flow looks, to
 * the backend and to E4, like that flow: who comes second gets another port. What came first is in
 * flows, or remembered in direct.
 */
#pragma once

/*
 * Whether the flow whose E4 is r may be ended for a direct connection of the same tuple: it is
 * over, or was never answered.
 */
static __always_inline bool yields(const struct flow_key *key, struct flow *r)
{
	struct flow_key k;
	struct flow *f;
	__u32 word;
	__u8 state;

	if (!forward_key(&k, key, r))
		return true;
	f = find(&k);
	if (!f)
		return true;
	word = load_word(f);
	state = state_of(word);
	if (state == STATE_UDP ? word >> 8 & FLOW_REPLIED : state != SR && !is_finished(state))
		return false;
	return retire(&k, f, word);
}

/* Gives a direct connection another port: it becomes a flow that leads where it goes anyway. */
__noinline enum verdict resource_direct(struct __sk_buff *skb, struct packet *p)
{
	enum drop_reason reason;
	struct work *w;
	struct flow *f;

	if (!p)
		return VERDICT_PASS;
	w = begin(p);
	if (!w)
		return VERDICT_PASS;
	set_addr(w->flow.addr, p->key.daddr);
	set_counted(&w->flow, w->flow.state, FLOW_DIRECT, p->key.dport, 0);
	reason = insert_flow(w, &f);
	if (reason != DROP_NONE)
		return drop(reason);
	return forward(skb, p, f, 0);
}

/* A later packet of a direct connection that has another port. */
__noinline enum verdict forward_direct(struct __sk_buff *skb, struct packet *p)
{
	struct flow_key k;
	struct flow *f;

	if (!p)
		return VERDICT_PASS;
	key_at(&k, &p->key, POSITION_E1);
	f = find(&k);
	return f ? forward_known(skb, p, f, load_word(f), 0) : drop(DROP_BUSY);
}

/* Remembers a direct connection, by its answer's key; for long, as it may live for long. */
static __always_inline void remember_direct(const struct flow_key *reply)
{
	__u32 mark, t;
	__u64 *w;

	if (bpf_map_lookup_elem(&direct, reply)) /* most datagrams: nothing before it */
		return;
	t = now();
	bpf_map_update_elem(&direct, reply, &t, BPF_ANY);
	mark = backend_mark(reply->saddr, reply->sport, reply->proto);
	w = direct_word(mark);
	if (w)
		add_mark(w, mark);
}

/* A direct connection's first packet, or a datagram. True: it needs another port. */
__noinline bool new_direct(struct packet *p)
{
	struct flow_key k;
	struct flow *r;

	if (!p)
		return false;
	reply_key(&k, &p->key, p->key.daddr, p->key.dport);
	r = find(&k);
	if (r && !yields(&k, r))
		return true;
	if (r)
		discard(r);
	remember_direct(&k);
	return false;
}

/* Whether the packet's device is a bridge: then it was seen at a port already. */
static __noinline bool came_by_port(struct __sk_buff *skb)
{
	__u32 ifindex = skb->ifindex;
	struct device *d = bpf_map_lookup_elem(&devices, &ifindex);

	return d && d->flags & DEVICE_BRIDGE;
}

/* Ingress, to an address that is a backend's: perhaps to one. */
static __always_inline enum verdict to_backend(struct __sk_buff *skb, struct packet *p)
{
	__u32 *bucket, word;
	struct flow *f;

	if (!backend_is_marked(&backend_bits, p->key.daddr, p->key.dport, p->key.proto))
		return in_service_range(p->key.daddr) ? unallocated(p) : VERDICT_PASS;
	bucket = resourced_of(&p->key);
	if (bucket && *bucket) {
		f = find(&p->key);
		if (f) {
			word = load_word(f);
			if (!is_syn(p->tcp_flags) || !is_finished(state_of(word)))
				return forward_direct(skb, p);
			retire(&p->key, f, word);
		}
	}
	if (p->key.proto != IPPROTO_UDP && (p->key.proto != IPPROTO_TCP || !is_syn(p->tcp_flags)))
		return VERDICT_PASS;
	if (came_by_port(skb)) /* perhaps translated there: not direct at all */
		return VERDICT_PASS;
	return new_direct(p) ? resource_direct(skb, p) : VERDICT_PASS;
}
