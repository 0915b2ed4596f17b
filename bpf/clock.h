/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The one source of time. bpf_jiffies64 is inlined and free; the nanosecond clocks cost 11-45 ns.
 */
#pragma once

/* Jiffies per second, measured by the agent with the program clock. */
volatile __u32 hz = 250;

/* Tests move the clock: the offset counts only if the constant was set before loading. */
const volatile bool clock_moves = false;
volatile __u64 clock_offset = 0;

static __always_inline __u64 now64(void)
{
	__u64 t = bpf_jiffies64();

	return clock_moves ? t + clock_offset : t;
}

static __always_inline __u32 now(void)
{
	return (__u32)now64();
}

/* One pair of clocks, for the agent: what a jiffy is. */
volatile __u64 clock_jiffies = 0;
volatile __u64 clock_ktime = 0;

SEC("syscall")
int clock(void *ctx __attribute__((unused)))
{
	clock_jiffies = now64();
	clock_ktime = bpf_ktime_get_ns();
	return 0;
}
