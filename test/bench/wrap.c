//go:build ignore

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A test run does not reset the packet between repeats, so a program that rewrites it would meet
 * its own output. These wrappers restore what the programs change, give the packet the next flow's
 * addresses and tail-call the program under test, unmodified; with a floor in its place the same
 * wrapper measures itself.
 */
#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

char _license[] SEC("license") = "Dual BSD/GPL";

/* One for each hook: an array takes only programs of one attach type. */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, 4);
	__uint(value_size, 4);
} ingress SEC(".maps"), egress SEC(".maps");

/* Set between runs. Addresses are the last 32 bits, network order; ports host order. */
volatile __u32 flows_mask = 0;	 /* number of flows - 1 */
volatile __u32 service_addr = 0; /* what every packet has at its other end */
volatile __u32 service_port = 0;
volatile __u32 client_base = 0; /* first client's address, host order */
volatile __u8 tcp_flags = 0x10;
volatile __u32 counter = 0;

/* The n-th flow in an order that caches cannot guess: an odd factor permutes a power of two. */
static __always_inline __u32 next_flow(void)
{
	__u32 n = counter++;

	return n * 2654435761u & flows_mask;
}

static __always_inline bool dress(struct __sk_buff *skb, bool reply)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	__u32 flow = next_flow(), client = client_base + (flow >> 14);
	__be16 cport = bpf_htons(1024 + (flow & 0x3fff)), sport = bpf_htons(service_port);
	struct ethhdr *eth = data;
	struct tcphdr *tcp;

	if ((void *)(eth + 1) > end)
		return false;
	if (eth->h_proto == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = (void *)(eth + 1);

		tcp = (void *)(ip + 1);
		if ((void *)(tcp + 1) > end)
			return false;
		ip->saddr = reply ? service_addr : bpf_htonl(client);
		ip->daddr = reply ? bpf_htonl(client) : service_addr;
	} else {
		struct ipv6hdr *ip6 = (void *)(eth + 1);

		tcp = (void *)(ip6 + 1);
		if ((void *)(tcp + 1) > end)
			return false;
		ip6->saddr.in6_u.u6_addr32[0] = bpf_htonl(reply ? 0xfd00000e : 0xfd00000c);
		ip6->daddr.in6_u.u6_addr32[0] = bpf_htonl(reply ? 0xfd00000c : 0xfd00000f);
		ip6->saddr.in6_u.u6_addr32[3] = reply ? service_addr : bpf_htonl(client);
		ip6->daddr.in6_u.u6_addr32[3] = reply ? bpf_htonl(client) : service_addr;
	}
	tcp->source = reply ? sport : cport;
	tcp->dest = reply ? cport : sport;
	/* the same byte lies in the payload of a UDP packet */
	((__u8 *)tcp)[13] = tcp_flags;
	return true;
}

SEC("tcx/ingress")
int wrap_ingress(struct __sk_buff *skb)
{
	if (dress(skb, false))
		bpf_tail_call(skb, &ingress, 0);
	return 2; /* TC_ACT_SHOT: the run notices */
}

SEC("tcx/egress")
int wrap_egress(struct __sk_buff *skb)
{
	if (dress(skb, true))
		bpf_tail_call(skb, &egress, 0);
	return 2; /* TC_ACT_SHOT: the run notices */
}

/* Floors. */
SEC("tcx/ingress")
int floor_ingress(struct __sk_buff *skb __attribute__((unused)))
{
	return -1;
}

SEC("tcx/egress")
int floor_egress(struct __sk_buff *skb __attribute__((unused)))
{
	return -1;
}

SEC("xdp")
int floor_xdp(struct xdp_md *ctx __attribute__((unused)))
{
	return XDP_TX;
}
