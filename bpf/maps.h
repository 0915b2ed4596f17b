/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* All maps. The names are the pins; docs/maps.md explains them to those who read dumps. */
#pragma once

/*
 * Shared by the generations: these outlive the process and every configuration.
 */

/* Packet as seen -> rewrite and state. Written by the programs only. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_FLOWS);
	__type(key, struct flow_key);
	__type(value, struct flow);
} flows SEC(".maps");

/*
 * The larger table that flows moves to while it grows; else nothing uses it. Written by the
 * programs only.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, struct flow_key);
	__type(value, struct flow);
} flows_next SEC(".maps");

/* One element: how far it is with that. Written by the agent. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct growth_state);
} growth SEC(".maps");

/* Place in the ring -> E1 of a flow that was half-open when it came there. Written by ingress. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_HALF_OPEN);
	__type(key, __u32);
	__type(value, struct flow_key);
} half_open SEC(".maps");

/* 0 -> where that ring begins and ends. Written by the programs. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct half_open_ring);
} half_open_ends SEC(".maps");

/*
 * Reply key of a connection from a client to a backend without a VIP -> its first packet, low 32
 * bits of jiffies. A flow of the same client port would be mistaken for it. Written by ingress.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_DIRECT);
	__type(key, struct flow_key);
	__type(value, __u32);
} direct SEC(".maps");

/*
 * Mark of a backend -> perhaps direct has connections to it: most have none, and no lookup there.
 * What goes from there leaves its bits. Written by ingress and the agent.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, DIRECT_WORDS);
	__type(key, __u32);
	__type(value, __u64);
} direct_bits SEC(".maps");

/* Hash of a client's address and port -> its direct connections that were resourced. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, RESOURCED_BUCKETS);
	__type(key, __u32);
	__type(value, __u32);
} resourced SEC(".maps");

/* Client of a service -> where it goes, for services with affinity. Written by the programs. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_AFFINITY);
	__type(key, struct affinity_key);
	__type(value, struct affinity_entry);
} affinity SEC(".maps");

/* Datagram -> ports, known from its first fragment. Written by the programs. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_FRAGMENTED);
	__type(key, struct fragment_key);
	__type(value, struct fragment);
} fragments SEC(".maps");

/* Datagram and number -> a fragment that came before the first. Written by the programs. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_HELD);
	__type(key, struct held_key);
	__type(value, struct held);
} held SEC(".maps");

/* Backend id -> flow entries it has. Written by the programs, zeroed by the agent for a new id. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, MAX_BACKENDS);
	__type(key, __u32);
	__type(value, struct backend_load);
} load SEC(".maps");

/*
 * CPU times ids of a CPU, plus backend id -> counters: count.h. Written by the programs, each on
 * its CPU, zeroed by the agent for a new id. No per-CPU array, whose elements the kernel allocates
 * one by one: seconds for a million.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, MAX_BACKENDS);
	__type(key, __u32);
	__type(value, struct backend_stats);
} stats SEC(".maps");

/* enum drop_reason -> packets. Written by the programs. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, DROP_MAX);
	__type(key, __u32);
	__type(value, __u64);
} drops SEC(".maps");

/* Service hash -> name. Written and read by the agent and the command line. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_SERVICES);
	__type(key, __u64);
	__type(value, struct service_name);
} service_info SEC(".maps");

/* One element about the others. Written by the agent. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct clocks);
} meta SEC(".maps");

/*
 * Configuration: a generation's own, written by the agent only, but for the cursors in slots.
 */

/* Mark of an address -> perhaps a VIP. Written by the agent, read by ingress and egress. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, BITS_WORDS);
	__type(key, __u32);
	__type(value, __u64);
} vip_bits SEC(".maps");

/* Mark of address, port and protocol -> perhaps a backend. Written by the agent, read by egress. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, BITS_WORDS);
	__type(key, __u32);
	__type(value, __u64);
} backend_bits SEC(".maps");

/*
 * Mark of an address -> perhaps a backend's, or one to masquerade with. Written by the agent, read
 * by ingress and egress.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, BITS_WORDS);
	__type(key, __u32);
	__type(value, __u64);
} peer_bits SEC(".maps");

/* Mark of the same -> perhaps a backend that is masqueraded to. As backend_bits. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, BITS_WORDS);
	__type(key, __u32);
	__type(value, __u64);
} masq_bits SEC(".maps");

/* Bit of a port -> perhaps a node port. Written by the agent, read by ingress. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, PORT_WORDS);
	__type(key, __u32);
	__type(value, __u64);
} node_port_bits SEC(".maps");

/* Address, port, protocol -> service. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_VIPS);
	__type(key, struct vip_key);
	__type(value, struct vip);
} vips SEC(".maps");

/* Service id -> identity and published pool. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, MAX_SERVICES);
	__type(key, __u32);
	__type(value, struct service);
} services SEC(".maps");

/*
 * Runs: a header of two words, then the slots, as the rule reads them (select.h); and the tables
 * that runs of mh share.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, MAX_SLOTS);
	__type(key, __u32);
	__type(value, __u64);
} slots SEC(".maps");

/* Backend id -> backend. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, MAX_BACKENDS);
	__type(key, __u32);
	__type(value, struct backend);
} backends SEC(".maps");

/*
 * Place of a backend's hash -> id of the first backend that has the place, and those lead on to
 * each other: ids.h. No hash, which takes a system call and a microsecond for each backend.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, MAX_BACKENDS);
	__type(key, __u32);
	__type(value, __u32);
} backend_ids SEC(".maps");

/* Address of this machine -> enum node_addr_flags. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_NODE_ADDRS);
	__type(key, addr_t);
	__type(value, __u32);
} node_addrs SEC(".maps");

/* Network -> 1: pods of this node have their addresses there. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_PREFIXES);
	__type(key, struct prefix_key);
	__type(value, __u32);
} prefixes SEC(".maps");

/* Service and network -> 1: its restricted frontends take new flows from there. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_SOURCE_RANGES);
	__type(key, struct source_key);
	__type(value, __u32);
} source_ranges SEC(".maps");

/* One element: where VIPs are taken from. Their addresses without a service lead nowhere. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct service_ranges);
} service_ranges SEC(".maps");

/* ifindex -> what its packets are masqueraded with, and its part in a bridge. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_DEVICES);
	__type(key, __u32);
	__type(value, struct device);
} devices SEC(".maps");

/*
 * 0 -> how many ports masquerading may use; then these, four a word, the first in the low bits;
 * from MASQ_BITS on, a bit for each port, set for these.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, MASQ_WORDS);
	__type(key, __u32);
	__type(value, __u64);
} masq_ports SEC(".maps");
