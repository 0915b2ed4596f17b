/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What is kept of sockets: as types.h and maps.h, a documented interface. */
#pragma once

enum socket_flags {
	SOCKET_COUNTED = 1 << 0, /* it counts at its backend as a flow does: UDP is inactive */
	SOCKET_CONNECTED =
		1 << 1,	      /* by connect: UDP that is not may go elsewhere with a datagram */
	SOCKET_ONCE = 1 << 2, /* a datagram was scheduled by itself: the next one is, too */
};

/* Where a socket was led last: from a VIP to a backend. It lives as long as the socket. */
struct socket {
	addr_t vip;
	addr_t addr; /* of the backend */
	__u16 vip_port;
	__u16 port;
	__u32 backend;	    /* hint, as in struct flow */
	__u64 backend_hash; /* 0: it was led nowhere */
	__u64 service_hash;
	__u32 seen; /* last datagram to the VIP, low 32 bits of jiffies */
	__u8 proto;
	__u8 flags;  /* enum socket_flags */
	__u16 moves; /* how often it went back to where it was before */
};

_Static_assert(sizeof(struct socket) == 64, "a socket's element is one cache line");

/* A socket as a walk met it. */
struct walked_socket {
	__u64 cookie;
	struct socket socket;
	__u32 netns;  /* inode number of its network namespace */
	__u32 device; /* to which it is bound; 0: to none */
	addr_t local; /* what the kernel knows, not what it was led from */
	addr_t remote;
	__u16 local_port;
	__u16 remote_port;
	__u16 family;
	__u16 pad;
};

/* One of the places that an unconnected socket was led from and to, beside the last. */
struct socket_peer {
	__u64 cookie; /* of the socket */
	addr_t addr;
	__u16 port;
	__u8 backend; /* 0: the address is a VIP's, 1: a backend's */
	__u8 pad[5];
};

/* A process that bound a node port, or was refused it. */
struct bind_event {
	addr_t addr;
	__u16 port;
	__u8 proto;
	__u8 refused;
	__u32 pid; /* of the process, in the first PID namespace */
	__u8 comm[16];
};

/* Socket -> where it was led. Written by the hooks of sockets. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct socket);
} sockets SEC(".maps");

/*
 * Socket and address -> where an unconnected socket was led before: of its VIPs and of their
 * backends, by which datagrams come back. Written by the hooks of sockets.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_SOCKET_PEERS);
	__type(key, struct socket_peer);
	__type(value, struct socket);
} socket_peers SEC(".maps");

/* Node ports that processes bound. Written by the hooks of sockets, read by the agent. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, BIND_BYTES);
} binds_seen SEC(".maps");
