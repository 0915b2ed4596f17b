/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the agent says: frontends, services, backends, devices; docs/maps.md. */
#pragma once

/*
 * {addr, port, proto} is a frontend, {addr, 0, proto} one for every port that has none of its own;
 * {addr, 0, 0} marks the address as a VIP. A node port has the unspecified address: it is served at
 * all of node_addrs that say so.
 */
struct vip_key {
	addr_t addr;
	__u16 port;
	__u8 proto;
	__u8 pad;
};

struct vip {
	__u32 service; /* index into services; 0 for the address marker */
	__u32 flags;   /* enum vip_flags */
};

enum vip_flags {
	VIP_MASQUERADE = 1 << 0,	   /* the backend is to see this node's address */
	VIP_MASQUERADE_OUTSIDERS = 1 << 1, /* the same, unless a pod of this node asks */
	VIP_MASQUERADE_NODE = 1 << 2,	   /* the same, if this node itself asks */
	VIP_LOCAL = 1 << 3,		   /* picks from the pool of this node */
	VIP_SHORT_CIRCUIT = 1 << 4,	   /* but for clients on this node: they have the other */
	VIP_RESTRICTED = 1 << 5,	   /* takes new flows from source_ranges only */
};

/* The two pools of a service. */
enum pools {
	POOL_CLUSTER = 1 << 0, /* of all nodes */
	POOL_LOCAL = 1 << 1,   /* of this one */
};

enum device_flags {
	DEVICE_BRIDGE = 1 << 0,	 /* what it receives came in by a port, and was seen there */
	DEVICE_PORT = 1 << 1,	 /* of a bridge, whose address is in mac */
	DEVICE_POD = 1 << 2,	 /* what it receives was sent by a pod of this node */
	DEVICE_XDP = 1 << 3,	 /* has the XDP program, and its own address in mac */
	DEVICE_NATIVE = 1 << 4,	 /* XDP's, natively: it takes frames of others that are so */
	DEVICE_GENERIC = 1 << 5, /* XDP's, behind the stack's buffers */
	DEVICE_FRAGS = 1 << 6,	 /* takes frames in several pieces, too */
};

/* What a device's packets are masqueraded with, all zero: nothing fits; its part in a bridge. */
struct device {
	addr_t addr4;
	addr_t addr6;
	__u8 mac[6]; /* of frames to this machine */
	__u8 flags;  /* enum device_flags */
	__u8 pad;
};

enum rule {
	RULE_NONE = 0,
	RULE_CURSOR = 1,
	RULE_HASH = 2,
	RULE_LEAST = 3,
};

enum rule_flags {
	RULE_CURSOR_PASSES = 1 << 0,
	RULE_HASH_PORT = 1 << 0,
	RULE_HASH_DEST = 1 << 1,
	RULE_HASH_FALLBACK = 1 << 2,
	RULE_HASH_SIP = 1 << 3,
	RULE_LEAST_WEIGHTED = 1 << 0,
	RULE_LEAST_EXPECTED = 1 << 1,
	RULE_LEAST_IDLE = 1 << 2,
	RULE_EMPTY_DROP = 1 << 3, /* no slots: packets are dropped, not refused */
};

enum service_options {
	SERVICE_ONE_PACKET = 1 << 0,	  /* UDP: each datagram is scheduled, nothing is kept */
	SERVICE_KEEP_QUIESCED = 1 << 1,	  /* affinity: weight 0 gets new flows of its clients */
	SERVICE_LOST_RESET = 1 << 2,	  /* flows of backends that are gone are ended */
	SERVICE_LOST_DROP = 1 << 3,	  /* their packets are dropped */
	SERVICE_REUSE_FINISHED = 1 << 4,  /* a SYN picks if its flow is finished, else not */
	SERVICE_REUSE_NEVER = 1 << 5,	  /* nor then */
	SERVICE_LAPSES = 1 << 6,	  /* affinity: flows do not put off the end */
	SERVICE_SOCKETS_OF_HOST = 1 << 7, /* of sockets only this machine's own are led */
};

/*
 * pool and local are the published words of the two pools, one aligned store each: base (index of
 * the run's header in slots) in bits 0-31, count (slots of the run) in 32-55, rule in 56-59, flags
 * in 60-63. affinity, prefix and options are another.
 */
struct service {
	__u64 hash; /* identity; 0: free */
	__u64 pool;
	__u32 affinity; /* seconds; 0: none */
	__u8 prefix;	/* of 128: the bits of a client's address that affinity looks at */
	__u8 options;	/* enum service_options */
	__u16 pad;
	__u64 local; /* as pool; 0: no frontend has VIP_LOCAL */
};

_Static_assert(sizeof(struct service) == 32, "two services are one cache line");

enum backend_state {
	BACKEND_FREE = 0,
	BACKEND_ACTIVE = 1,    /* takes new flows unless its weight is 0 */
	BACKEND_DRAINING = 2,  /* left the service; the id rests until its load is zero */
	BACKEND_UNHEALTHY = 3, /* in the service, and does not serve */
};

struct backend {
	__u64 hash; /* identity; 0: free */
	addr_t addr;
	__u16 port;
	__u16 weight;
	__u32 service;	   /* index into services */
	__u32 order;	   /* place in the service's list, 0 = first = newest */
	__u8 state;	   /* enum backend_state */
	__u8 outside;	   /* enum pools: those that it is not in */
	__u16 last_weight; /* the last one that was not 0: mh's tables go by it */
	__u32 upper;	   /* connections that overload it; 0: none do */
	__u32 lower;	   /* with fewer it no longer is; 0: upper less a quarter */
	__u32 next;	   /* id of the next one in its chain: ids.h; 0: none */
	__u32 pad1[3];
};

_Static_assert(sizeof(struct backend) == 64, "a backend is one cache line");

/* A network; len is of the 128 bits of an address. */
struct prefix_key {
	__u32 len;
	addr_t addr;
};

/* A network from which a service takes flows; len counts the bits of service too. */
struct source_key {
	__u32 len;
	__u32 service; /* index into services */
	addr_t addr;
};

#define MAX_SERVICE_RANGES 8

/* Networks that VIPs are taken from. */
struct service_ranges {
	__u32 count;
	__u32 pad;
	addr_t addr[MAX_SERVICE_RANGES];
	addr_t mask[MAX_SERVICE_RANGES];
};
