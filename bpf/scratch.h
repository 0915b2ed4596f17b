/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Maps that are worth nothing after the program that uses them, and are not pinned. */
#pragma once

/* 0 -> this CPU's allowance of answers. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct bucket);
} buckets SEC(".maps");

/* What this CPU is making: 0 at ingress, 1 at egress. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, struct work);
} works SEC(".maps");

/* 0: a fragment on its way to or from held; 1: the one that it came with. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, struct held);
} parcels SEC(".maps");

/* 0 -> the part of a packet that an ICMP error quotes. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct quote);
} quotes SEC(".maps");

/* Entries of flows that user space read, for the sweeper where it is no iterator. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, SWEEP_PIECE);
	__type(key, __u32);
	__type(value, struct flow_key);
} piece_keys SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, SWEEP_PIECE);
	__type(key, __u32);
	__type(value, struct flow);
} piece_flows SEC(".maps");

#define WAYS_SHIFT 8

/* Hash of a packet's ends -> where one such went last. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1 << WAYS_SHIFT);
	__type(key, __u32);
	__type(value, struct way);
} ways SEC(".maps");
