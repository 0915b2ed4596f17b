/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Every structure that Go or bpftool sees. One meaning each, padding explicit, no bitfields, no
 * unions. Ports are in host order, addresses in network order and IPv4 as ::ffff:a.b.c.d, so both
 * families take one code path. The layouts are a documented interface: docs/maps.md.
 */
#pragma once

/* 16 bytes, so that bpf2go gives [16]uint8, which is netip.Addr.As16(). */
typedef __u8 addr_t[16];

/* Sizes that Go needs too, as enum for BTF. */
enum limits {
	LAYOUT_VERSION = 10, /* of the maps that outlive a process; another number: another table */
	BITS_WORDS = 1 << (18 - 6), /* of a bitmap at first, 64 bits a word */
	MAX_SERVICES = 1 << 16,
	MAX_BACKENDS = 1 << 16,
	MAX_VIPS = 1 << 17,	/* frontends, and one marker for each address */
	MAX_SLOTS = 1 << 20,	/* words of 8 bytes */
	HEADER_WORDS = 2,	/* of a run in slots, before its slots */
	SLOT_CLOSED = 1u << 31, /* beside a backend id: takes nothing new */
	MAX_FLOWS = 1 << 19,	/* entries: a flow has two */
	MAX_NODE_ADDRS = 1 << 12,
	MAX_PREFIXES = 1 << 10,
	MAX_SOURCE_RANGES = 1 << 20, /* a trie has memory for what is in it */
	PORT_WORDS = 65536 / 64,
	DIRECT_SHIFT = 18, /* bits of a mark that do not say which word of direct_bits */
	DIRECT_WORDS = 1 << (32 - DIRECT_SHIFT),
	MAX_DEVICES = 1 << 12,
	MAX_DIRECT = 1 << 16,	     /* connections to backends without a VIP that are remembered */
	RESOURCED_BUCKETS = 1 << 12, /* of those that got another source port */
	MAX_FRAGMENTED = 1 << 13,    /* datagrams whose fragments are on their way */
	MAX_HELD = 1 << 10,	     /* fragments that wait for the first of theirs */
	HELD_BYTES = 1500,	     /* longest of them */
	MASQ_BITS = 1 + 65536 / 4,   /* where masq_ports has a bit for each port */
	MASQ_WORDS = MASQ_BITS + 65536 / 64,
	SWEEP_PIECE = 1 << 10,	       /* entries that user space reads at once to be swept */
	MAX_LEAST = 1 << 14,	       /* longest run that rule LEAST scans */
	BIND_BYTES = 1 << 16,	       /* of events of binds that nobody read yet */
	MAX_SOCKET_PEERS = 1 << 14,    /* of unconnected sockets that talk to several VIPs */
	MAX_AFFINITY = 1 << 16,	       /* clients that are kept at their backend */
	MAX_HALF_OPEN = MAX_FLOWS / 4, /* places in the ring; a power of 2 */
};

/*
 * Position of a flow entry: which hook meets it. Part of the key. A flow whose client port is not
 * free towards its backend has R1 and R4 too, under the keys of its E1 and E4: they change the
 * client's port, beside the other rewrite. They are not E2 and E3: other flows may have these,
 * under the same keys.
 */
enum position {
	POSITION_E1 = 1, /* ingress, client -> VIP: destination becomes the backend */
	POSITION_E2 = 2, /* egress, client -> backend, masqueraded: source becomes this node */
	POSITION_E3 = 3, /* ingress, backend -> this node, masqueraded: destination: the client */
	POSITION_E4 = 4, /* egress, backend -> client: source becomes the VIP */
	POSITION_R1 = 5, /* with E1, resourced: source becomes what the backend sees */
	POSITION_R4 = 6, /* with E4, resourced: destination becomes the client */
};

/* The state of a flow; the TCP states are those of IPVS, docs/packet-path.md has the table. */
enum flow_state {
	STATE_NONE = 0,
	STATE_ESTABLISHED = 1,
	STATE_SYN_SENT = 2,
	STATE_SYN_RECV = 3,
	STATE_FIN_WAIT = 4,
	STATE_TIME_WAIT = 5,
	STATE_CLOSE = 6,
	STATE_CLOSE_WAIT = 7,
	STATE_LAST_ACK = 8,
	STATE_LISTEN = 9,
	STATE_SYNACK = 10,
	STATE_UDP = 11,	    /* not answered yet, or answered: FLOW_REPLIED tells */
	STATE_REPLY = 12,   /* a reply entry; its state is in its forward entry */
	STATE_DEAD = 13,    /* counted out; deleted at the earliest 1 s later */
	STATE_CLAIMED = 14, /* DEAD, and one CPU is deleting it */
	STATE_MOVED = 15,   /* in flows while it grows: flows_next has it, if anything does */
	STATE_MAX = 16,
	STATE_PENDING = 32, /* beside the state, in flows_next: it counts once flows says MOVED */
};

enum flow_flags {
	FLOW_REPLIED = 1 << 0,	  /* the backend answered */
	FLOW_MASQUERADE = 1 << 1, /* it has E2 and E3 once its first packet left */
	FLOW_RESOURCED = 1 << 2,  /* the backend sees another client port: R1 and R4 have it */
	FLOW_DIRECT = 1 << 3,	  /* no service's: a direct connection, resourced */
	FLOW_AFFINITY = 1 << 4,	  /* keeps its client's entry in affinity alive */
	FLOW_HALF_OPEN = 1 << 5,  /* nothing shows yet that its client is there */
	FLOW_MOVED = 1 << 6,	  /* it came from a smaller table: readers of both count it there */
	FLOW_XDP = 1 << 7,	  /* XDP's for life: the stack sees none of its packets */
};

/* A packet's 5-tuple as the hook sees it, before the rewrite. */
struct flow_key {
	addr_t saddr;
	addr_t daddr;
	__u16 sport;
	__u16 dport;
	__u8 proto;
	__u8 position;
	__u16 pad;
} __attribute__((aligned(8)));

/*
 * state, flags, port and backend share one aligned 64-bit word, the first three its low half: state
 * and hint, which say where a flow counts, change by one cmpxchg. port and addr never change after
 * the insert.
 */
struct flow {
	addr_t addr;   /* what the rewritten address becomes */
	__u8 state;    /* enum flow_state */
	__u8 flags;    /* enum flow_flags */
	__u16 port;    /* what the rewritten port becomes */
	__u32 backend; /* hint: id of the backend; valid only if its hash matches */
	__u32 seen;    /* last packet, low 32 bits of jiffies */
	__u32 packets; /* wraps */
	__u64 service_hash;
	__u64 backend_hash;
	__u64 bytes; /* of IP packets, header included */
};

_Static_assert(sizeof(struct flow_key) == 40, "a flow entry is two cache lines");
_Static_assert(sizeof(struct flow) == 56, "a flow entry is two cache lines");

/* Where keys go that neither table has, while the flow table grows: next.h. */
enum growth_phase {
	GROWTH_OLD = 0,	 /* to flows */
	GROWTH_BOTH = 1, /* to flows_next, after a mark in flows */
	GROWTH_NEXT = 2, /* to flows_next */
};

/* How far the flow table has grown. One element. */
struct growth_state {
	__u32 phase; /* enum growth_phase */
	__u32 pad;
	__u64 reserved_until; /* jiffies; flows_next has no room but for what is moved until then */
};

/* Which datagram a fragment is of. */
struct fragment_key {
	addr_t saddr;
	addr_t daddr;
	__u32 id; /* network order */
	__u8 proto;
	__u8 pad[3];
};

/* What only the first fragment says. */
struct fragment {
	__u16 sport;
	__u16 dport;
	__u32 known;   /* the protocol; 0: the first fragment was not here yet */
	__u32 held;    /* fragments that came before it */
	__u32 backend; /* of one-packet scheduling: where the datagram goes; 0: not known */
};

struct held_key {
	struct fragment_key datagram;
	__u32 n; /* the how many-eth that was held */
};

/* A fragment that came before the first: the IP packet. */
struct held {
	__u32 len;
	__u8 bytes[HELD_BYTES];
};

/*
 * Gauges of flow entries; the two are one word, which the programs change atomically, so that a
 * flow never counts twice or not at all. Recounted by the audit.
 */
struct backend_load {
	__u32 active;
	__u32 inactive;
	__u32 overloaded; /* 1: had upper flows, and not fewer than lower since */
	__u32 pad;
} __attribute__((aligned(8)));

/* A client, or a network of them, of a service with affinity. */
struct affinity_key {
	addr_t client; /* its first bits, as the service's prefix says */
	__u64 service_hash;
};

/* Where it goes. */
struct affinity_entry {
	__u64 backend_hash;
	__u64 expires; /* jiffies64; it is put off as long as flows of it live; 0: it ended */
	__u32 backend; /* hint, as in struct flow */
	__u32 assured; /* 1: a backend answered */
};

/*
 * Half-open flows, of which the oldest make room: a ring from tail to next. One element, one cache
 * line.
 */
struct half_open_ring {
	__u64 next;  /* how many ever began; its place in the ring is that modulo the size */
	__u64 tail;  /* how many of them were passed since */
	__u64 count; /* flows with FLOW_HALF_OPEN, in the ring or not */
};

/* Of a CPU, by backend id; zeroed when the id goes to another backend. */
struct backend_stats {
	__u64 connections;
	__u64 in_packets;
	__u64 in_bytes;
	__u64 out_packets;
	__u64 out_bytes;
};

/* By service hash, for the command line: the kernel does not read it. */
struct service_name {
	__u8 name[200];	   /* NUL-padded; Kubernetes' longest are 196 */
	__u8 scheduler[8]; /* NUL-padded */
	__u8 family;	   /* 4 or 6 */
	__u8 flags;	   /* of the scheduler: 1 fallback, 2 port */
	__u8 pad[6];
};

/* One element: what a reader needs to make sense of the other maps. */
struct clocks {
	__u32 layout;	    /* LAYOUT_VERSION */
	__u32 hz;	    /* jiffies per second */
	__u64 jiffies;	    /* a pair of clocks read together: jiffies64 ... */
	__u64 ktime;	    /* ... and CLOCK_MONOTONIC in ns */
	__u32 timeouts[16]; /* by enum flow_state, in seconds: how long an idle flow lives */
};

enum node_addr_flags {
	NODE_ADDR_ASSIGNED = 1 << 0, /* on a device of this network namespace */
	NODE_ADDR_PORTS = 1 << 1,    /* serves node ports */
};

/* Token bucket for answers that we make ourselves; per CPU. */
struct bucket {
	__u64 refilled; /* jiffies64 */
	__u64 tokens;
};

/* Where a new flow is put together: too much for the stack of nested functions. Per CPU. */
struct work {
	struct flow_key key;   /* of E1, or at egress E2 */
	struct flow_key reply; /* of E4, or at egress E3 */
	struct flow flow;      /* E1 */
	struct flow entry;     /* one of the others */
	struct flow_key displaced;
};

/* Bytes of a packet that an ICMP error carries, and the checksum's working space. */
struct quote {
	__u8 bytes[3 * 512]; /* MAX_QUOTED, in the pieces that bpf_csum_diff takes */
};

/* Where a frame with these ends goes that came by a device, as the FIB said. Per CPU. */
struct way {
	struct flow_key ends;
	__u32 from;    /* ifindex */
	__u32 class;   /* of the header: fib.h */
	__u32 asked;   /* when, low 32 bits of jiffies */
	__u32 longest; /* bytes of IP packets that go this way */
	__u32 ifindex; /* to which device; 0: XDP may not */
	__u8 mac[6];   /* of frames to this machine, */
	__u8 smac[6];  /* and those of it when it goes on */
	__u8 dmac[6];
	__u8 frags; /* not 0: it may be in several pieces */
	__u8 pad;
};
