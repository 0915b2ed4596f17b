/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Affinity, IPVS's persistence: new flows of a client go where its last one went, however loaded
 * that backend is. An entry lasts for the service's timeout after the last new flow, and then for
 * another minute at a time as long as a flow of it lives: the sweeper sees to that. It does not
 * if the service says that affinity lapses, as in Kubernetes.
 */
#pragma once

#define AFFINITY_EXTENSION 60 /* seconds */
#define AFFINITY_AHEAD	   5  /* seconds before its end that it is put off: longer than a walk */

/* The client's part of a key: the first prefix bits of its address. */
static __always_inline void affinity_key(struct affinity_key *k, const addr_t client, __u8 prefix,
					 __u64 service_hash)
{
	const __u32 *from = (const __u32 *)client;
	__u32 *to = (__u32 *)k->client, i;

	for (i = 0; i < 4; i++) {
		__u32 left = prefix > 32 * i ? prefix - 32 * i : 0;

		to[i] = left >= 32 ? from[i] : from[i] & bpf_htonl(~(~0u >> left));
	}
	k->service_hash = service_hash;
}

/* Id of the backend that a client's entry leads to; 0: that takes nothing of this pool any more. */
static __always_inline __u32 affine_backend(struct affinity_entry *a, __u8 options, __u32 pool)
{
	struct backend *b;
	__u32 mended;

	if (now64() >= a->expires)
		return 0;
	b = backend_at(a->backend);
	if (!b || b->hash != a->backend_hash) {
		mended = id_of(a->backend_hash);
		b = mended ? backend_at(mended) : NULL;
		if (!b)
			return 0;
		a->backend = mended;
	}
	if (b->state != BACKEND_ACTIVE || b->outside & pool ||
	    (!b->weight && !(options & SERVICE_KEEP_QUIESCED)))
		return 0;
	return a->backend;
}

static __always_inline __u64 affine_until(const struct service *svc)
{
	return now64() + (__u64)svc->affinity * hz;
}

/*
 * Id of the backend that a client is kept at; 0: it is free to go anywhere. This and the next have
 * frames of their own, which are gone when the pick needs its stack; what is per CPU would not do,
 * as the hooks of sockets may be interrupted.
 */
static __noinline __u32 find_affine(const struct packet *p, struct service *svc, __u32 pool)
{
	struct affinity_entry *a;
	struct affinity_key k;
	__u32 id;

	affinity_key(&k, p->key.saddr, svc->prefix, svc->hash);
	a = bpf_map_lookup_elem(&affinity, &k);
	if (!a)
		return 0;
	id = affine_backend(a, svc->options, pool);
	a->expires =
		id ? affine_until(svc) : 0; /* it ends, though nobody else may take the client */
	return id;
}

/* Keeps that client at a backend from now on. */
static __noinline int remember(const struct packet *p, struct service *svc, __u32 id)
{
	struct affinity_entry a = {.backend = id, .expires = affine_until(svc)};
	struct backend *b = backend_at(id);
	struct affinity_key k;

	if (!b)
		return 0;
	affinity_key(&k, p->key.saddr, svc->prefix, svc->hash);
	a.backend_hash = b->hash;
	bpf_map_update_elem(&affinity, &k, &a, BPF_ANY);
	return 0;
}

/* Whether a packet is scheduled by itself, and nothing kept of it. */
static __always_inline bool is_once(const struct packet *p, const struct service *svc)
{
	return svc->options & SERVICE_ONE_PACKET && p->key.proto == IPPROTO_UDP;
}

/* Id of the backend for a new flow, of one pool of a service; 0: nobody can take it. */
__noinline __u32 choose(struct packet *p, __u32 service, __u32 pool)
{
	struct service *svc = bpf_map_lookup_elem(&services, &service);
	struct fragment *datagram = NULL;
	__u32 id = 0;

	if (!p || !svc)
		return 0;
	if (p->part != WHOLE && is_once(p, svc))
		datagram = datagram_of(p);
	if (datagram && p->part == LATER)
		return datagram->backend; /* all of a datagram goes one way */
	if (svc->affinity)
		id = find_affine(p, svc, pool);
	if (!id) {
		id = pick(&p->key, pool_word(svc, pool));
		if (id && svc->affinity)
			remember(p, svc, id);
	}
	if (datagram)
		datagram->backend = id;
	return id;
}

/*
 * The entry of flow f, whose forward key this is; NULL: gone, or led elsewhere, or the service has
 * an option that it is not to have.
 */
static __noinline struct affinity_entry *affinity_of(const struct flow_key *key, struct flow *f,
						     __u8 unless)
{
	struct affinity_key k;
	struct service *svc;
	struct affinity_entry *a;
	struct backend *b;

	if (!key || !f)
		return NULL;
	b = backend_of(f);
	svc = b ? bpf_map_lookup_elem(&services, &b->service) : NULL;
	if (!svc || svc->options & unless)
		return NULL;
	affinity_key(&k, key->saddr, svc->prefix, f->service_hash);
	a = bpf_map_lookup_elem(&affinity, &k);
	return a && a->backend_hash == f->backend_hash ? a : NULL;
}

/* A backend answered a flow. */
static __always_inline void assure(const struct flow_key *key, struct flow *f)
{
	struct affinity_entry *a = affinity_of(key, f, 0);

	if (a)
		a->assured = 1;
}

/* Puts off the end of the entry that a live flow belongs to. One of a lost backend has ended. */
static __always_inline void prolong(const struct flow_key *key, struct flow *f)
{
	struct affinity_entry *a = affinity_of(key, f, SERVICE_LAPSES);
	__u64 t = now64();

	if (!a || !a->expires || a->expires > t + AFFINITY_AHEAD * hz)
		return;
	if (a->expires < t)
		a->expires = t;
	a->expires += AFFINITY_EXTENSION * hz;
}
