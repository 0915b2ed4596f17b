/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* All maps. The names are the pins; docs/maps.md explains them to those who read dumps. */
#pragma once

/*
 * Shared by the generations: these outlive the process and every configuration.
 */

/* Bit of an address -> perhaps a VIP. Written by the agent, read by ingress and egress. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, BITS_WORDS);
	__type(key, __u32);
	__type(value, __u64);
} vip_bits SEC(".maps");

/* Bit of address, port and protocol -> perhaps a backend. Written by the agent, read by egress. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, BITS_WORDS);
	__type(key, __u32);
	__type(value, __u64);
} backend_bits SEC(".maps");

/* Packet as seen -> rewrite and state. Written by the programs only. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_FLOWS);
	__type(key, struct flow_key);
	__type(value, struct flow);
} flows SEC(".maps");

/* Backend id -> flow entries it has. Written by the programs, zeroed by the agent for a new id. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, MAX_BACKENDS);
	__type(key, __u32);
	__type(value, struct backend_load);
} load SEC(".maps");

/* Backend id -> counters. Written by the programs, zeroed by the agent for a new id. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
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

/* Runs: a cursor, then backend ids, two a word, the first in the low half. */
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

/* Backend hash -> backend id: mends a flow's hint. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_BACKENDS);
	__type(key, __u64);
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

/*
 * Scratch: worth nothing after the program that uses it.
 */

/* 0 -> this CPU's allowance of answers. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct bucket);
} buckets SEC(".maps");

/* 0 -> the part of a packet that an ICMP error quotes. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct quote);
} quotes SEC(".maps");
