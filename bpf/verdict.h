/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What becomes of a packet; the entry points map it to what their hook returns. */
#pragma once

/* Of enum tcx_action_base, which older uapi headers lack. Passing is always NEXT: others' programs
 * on the same device must still run.
 */
#define TCX_NEXT -1
#define TCX_DROP 2

enum verdict {
	VERDICT_PASS,	/* go on, changed or not */
	VERDICT_ONWARD, /* changed, of a flow that is XDP's: on past the stack */
	VERDICT_DROP,
	VERDICT_ICMP,	   /* refuse: port unreachable */
	VERDICT_RST,	   /* refuse: reset */
	VERDICT_ELSEWHERE, /* no frontend's, or no flow's: no hook sees this one */
};

static __always_inline enum verdict drop(enum drop_reason reason)
{
	count_drop(reason);
	return VERDICT_DROP;
}

static __always_inline enum verdict refuse(enum drop_reason reason, enum verdict answer)
{
	count_drop(reason);
	return answer;
}
