/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The states of a flow: what a packet makes of one, and what counts as active. */
#pragma once

/*
 * The TCP state machine of IPVS (docs/packet-path.md): by direction and the strongest flag, the
 * next state for each state NONE ... SYNACK.
 */
#define NO STATE_NONE
#define ES STATE_ESTABLISHED
#define SS STATE_SYN_SENT
#define SR STATE_SYN_RECV
#define FW STATE_FIN_WAIT
#define TW STATE_TIME_WAIT
#define CL STATE_CLOSE
#define CW STATE_CLOSE_WAIT
#define LA STATE_LAST_ACK
#define LI STATE_LISTEN
#define SA STATE_SYNACK

enum direction { IN = 0, OUT = 4 };

enum strongest { ON_SYN = 0, ON_FIN = 1, ON_ACK = 2, ON_RST = 3 };

static const __u8 tcp_next[8][16] = {
	/* from              NO  ES  SS  SR  FW  TW  CL  CW  LA  LI  SA */
	[IN + ON_SYN] = {SR, ES, ES, SR, SR, SR, SR, SR, SR, SR, SR},
	[IN + ON_FIN] = {CL, CW, SS, TW, TW, TW, CL, CW, LA, LI, TW},
	[IN + ON_ACK] = {ES, ES, SS, ES, FW, TW, CL, CW, CL, LI, ES},
	[IN + ON_RST] = {CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, SR},
	[OUT + ON_SYN] = {SS, ES, SS, SR, SS, SS, SS, SS, SS, LI, SR},
	[OUT + ON_FIN] = {TW, FW, SS, TW, FW, TW, CL, TW, LA, LI, TW},
	[OUT + ON_ACK] = {ES, ES, SS, ES, FW, TW, CL, CW, LA, ES, ES},
	[OUT + ON_RST] = {CL, CL, SS, CL, CL, TW, CL, CL, CL, CL, CL},
};

static __always_inline bool is_active(__u8 state)
{
	return state == ES || state == SS || state == SR || state == SA;
}

/* A new connection's first packet. */
static __always_inline bool is_syn(__u8 tcp_flags)
{
	return (tcp_flags & (TCP_SYN | TCP_ACK | TCP_RST)) == TCP_SYN;
}

/* Closed: a SYN of the same tuple begins another connection. */
static __always_inline bool is_finished(__u8 state)
{
	return state == TW || state == CL;
}

/* The state that follows from when a segment with these flags passes. */
static __always_inline __u8 next_state(__u8 from, __u8 tcp_flags, enum direction dir)
{
	__u32 row = dir + ON_ACK;

	if (tcp_flags & TCP_RST)
		row = dir + ON_RST;
	else if (tcp_flags & TCP_SYN)
		row = dir + ON_SYN;
	else if (tcp_flags & TCP_FIN)
		row = dir + ON_FIN;
	else if (!(tcp_flags & TCP_ACK))
		return CL;
	return tcp_next[row & 7][from & 15];
}
