/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Why a packet was refused or dropped. This enum is the one list: Go takes names and numbers from
 * its BTF; docs/drops.md and what `waggle stats` says are made of the comments, of which the part
 * behind "Do:" is for the operator. Add at the end only.
 */
#pragma once

enum drop_reason {
	DROP_NONE = 0,
	/*
	 * the service has no backend to pick: none, or all of weight 0; refused with ICMP port
	 * unreachable. Do: add a backend; `waggle backends` shows what there is.
	 */
	DROP_EMPTY_POOL,
	/*
	 * a VIP's port that no service has, and the address is not on this machine; refused with
	 * ICMP port unreachable. Do: nothing, or add the service.
	 */
	DROP_UNKNOWN_PORT,
	/*
	 * TCP to a frontend, no SYN and of no known connection; refused with RST. Do: nothing
	 * after a timeout (900 s idle); otherwise see whether both directions pass this machine.
	 */
	DROP_NO_FLOW,
	/*
	 * to a frontend, but it met no ingress hook: sent by a socket of this machine itself that
	 * was not led, or by an excluded device. Do: see --exclude-devices, --socket-lb and
	 * --cgroup; what is neither TCP nor UDP reaches no VIP from here.
	 */
	DROP_UNTRANSLATED,
	/*
	 * the client's port is in use at this backend, through another VIP or without one, and no
	 * other port was free; refused with ICMP port unreachable. Do: see who has so many
	 * connections (`waggle flows`); widen --masquerade-ports.
	 */
	DROP_REPLY_TAKEN,
	/*
	 * the flow table has no room for a new flow, and grows no further, or not fast enough;
	 * what is in it goes on. Do: see who opens so many (`waggle flows`); raise --flows-max, or
	 * --flows-min.
	 */
	DROP_FLOWS_FULL,
	/*
	 * a later IP fragment that came before its first and could not be kept until then: longer
	 * than 1500 bytes, or too many at once. Do: lower the sender's datagram size, or the MTU of
	 * jumbo networks; in a flood, look at the senders.
	 */
	DROP_FRAGMENT,
	/*
	 * to a VIP, with an IPv6 extension header that cannot be followed: AH, a routing header
	 * with segments left, or more than 200 bytes of headers. Do: nothing; such packets cannot
	 * be translated.
	 */
	DROP_EXTENSION,
	/*
	 * a protocol other than TCP, UDP, SCTP and ICMP, to a VIP that is not on this machine. Do:
	 * nothing.
	 */
	DROP_PROTOCOL,
	/* to a VIP, with headers cut off or impossible. Do: look at the sender. */
	DROP_MALFORMED,
	/*
	 * refused in silence: more than 1000 answers in this second on this CPU. Do: see the other
	 * reasons; it is a scan or a flood.
	 */
	DROP_RATE_LIMITED,
	/* the kernel refused to change the packet. Do: report it. */
	DROP_REWRITE,
	/*
	 * another CPU was replacing this flow's entry. Do: nothing; the next packet finds it done.
	 */
	DROP_BUSY,
	/*
	 * to be masqueraded, and no port is free towards this backend. Do: widen
	 * --masquerade-ports; spread the load over more backends; `waggle flows` shows who holds
	 * the ports.
	 */
	DROP_NO_PORT,
	/*
	 * to be masqueraded, and this machine has no address of the packet's family that others
	 * could answer. Do: give it one: `ip addr add`.
	 */
	DROP_NO_ADDRESS,
	/*
	 * an ICMP redirect that would have client and backend talk past this machine. Do: nothing,
	 * they are in one network, and it works; `sysctl net.ipv4.conf.DEVICE.send_redirects=0`
	 * keeps the kernel from making them.
	 */
	DROP_REDIRECT,
	/*
	 * of a flow whose backend was removed or is unhealthy, and the service says
	 * `lostBackend: drop`. Do: nothing; the flow goes on if the backend comes back before it
	 * times out.
	 */
	DROP_BACKEND_GONE,
	/*
	 * no packet: a flow whose client never showed itself made room for a newer one. Do: with
	 * many, nothing but to find who sends them: it is a flood of half-open connections.
	 */
	DROP_DISPLACED,
	/*
	 * to a frontend with traffic policy Local, and this machine has no backend of the service,
	 * but others have. Do: nothing; send clients to a machine that has one, or set the policy
	 * to Cluster.
	 */
	DROP_NO_LOCAL,
	/*
	 * to a frontend that takes connections from some networks only (loadBalancerSourceRanges),
	 * and the client is in none of them. Do: nothing, or add the client's network.
	 */
	DROP_SOURCE_RANGE,
	/*
	 * to an address of a range that VIPs are taken from (ServiceCIDR), and no service has it.
	 * Do: nothing; the client uses an address of a service that is gone.
	 */
	DROP_UNALLOCATED,
	DROP_MAX,
};
