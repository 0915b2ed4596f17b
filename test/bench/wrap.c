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
} ingress SEC(".maps"), egress SEC(".maps"), xdp SEC(".maps");

/* The flow table of the programs, as bpf/types.h has it. */
struct flow_key {
	__u64 saddr[2], daddr[2];
	__u64 ports; /* source, destination, protocol, position */
};

struct flow {
	__u64 words[7];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, struct flow_key);
	__type(value, struct flow);
} flows SEC(".maps");

/* Set between runs. Addresses are the last 32 bits; they and ports in host order. */
volatile __u32 flows_mask = 0;	 /* number of flows - 1 */
volatile __u32 factor = 1;	 /* what order they come in: odd */
volatile __u32 service_addr = 0; /* what packets have at their other end: this, */
volatile __u32 spread = 0;	 /* and these bits of the flow's number added */
volatile __u32 service_port = 0;
volatile __u32 client_base = 0; /* first client's address */
volatile __u8 tcp_flags = 0x10;
volatile __u32 counter = 0;
volatile __u64 frame_to = 0;   /* Ethernet address, in the low bytes */
volatile __u32 full_len = 0;   /* of frames, before they are answered */
volatile __u32 added_room = 0; /* by an ICMP error */

/* An odd factor permutes a power of two; a large one in an order that caches cannot guess. */
static __always_inline __u32 next_flow(void)
{
	__u32 n = counter++;

	return n * factor & flows_mask;
}

/*
 * First and last word of an IPv6 address, with zeros between them. In words of 8 bytes, as a
 * program may read it: what a device writes to memory comes to no CPU's store buffer.
 */
static __always_inline void put_addr(struct in6_addr *to, __u32 first, __be32 last)
{
	__u64 *w = (__u64 *)to;

	w[0] = bpf_htonl(first);
	w[1] = (__u64)last << 32;
}

static __always_inline bool dress(void *data, void *end, bool reply)
{
	__u32 flow = next_flow();
	__be32 client = bpf_htonl(client_base + (flow >> 14));
	__be32 service = bpf_htonl(service_addr + (flow & spread));
	__be16 cport = bpf_htons(1024 + (flow & 0x3fff)), sport = bpf_htons(service_port);
	struct ethhdr *eth = data;
	struct tcphdr *tcp;
	__u64 to = frame_to;
	__u8 proto;

	if ((void *)(eth + 1) > end)
		return false;
	__builtin_memcpy(eth->h_dest, &to, ETH_ALEN);
	if (eth->h_proto == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = (void *)(eth + 1);

		tcp = (void *)(ip + 1);
		if ((void *)(tcp + 1) > end)
			return false;
		ip->saddr = reply ? service : client;
		ip->daddr = reply ? client : service;
		ip->ttl = 64;
		proto = ip->protocol;
	} else {
		struct ipv6hdr *ip6 = (void *)(eth + 1);

		tcp = (void *)(ip6 + 1);
		if ((void *)(tcp + 1) > end)
			return false;
		put_addr(&ip6->saddr, reply ? 0xfd00000e : 0xfd00000c, reply ? service : client);
		put_addr(&ip6->daddr, reply ? 0xfd00000c : 0xfd00000f, reply ? client : service);
		ip6->hop_limit = 64;
		proto = ip6->nexthdr;
	}
	tcp->source = reply ? sport : cport;
	tcp->dest = reply ? cport : sport;
	/* wrong, and never for long what a device is to finish */
	if (proto == IPPROTO_TCP)
		tcp->check = bpf_htons(0x1234);
	else
		((struct udphdr *)tcp)->check = bpf_htons(0x1234);
	/* the same byte lies in the payload of a UDP packet */
	((__u8 *)tcp)[13] = tcp_flags;
	return true;
}

static __always_inline bool dress_buffer(struct __sk_buff *skb, bool reply)
{
	return dress((void *)(long)skb->data, (void *)(long)skb->data_end, reply);
}

SEC("tcx/ingress")
int wrap_ingress(struct __sk_buff *skb)
{
	if (dress_buffer(skb, false))
		bpf_tail_call(skb, &ingress, 0);
	return 1; /* no program's verdict: the run notices */
}

SEC("tcx/egress")
int wrap_egress(struct __sk_buff *skb)
{
	if (dress_buffer(skb, true))
		bpf_tail_call(skb, &egress, 0);
	return 1;
}

SEC("xdp.frags")
int wrap_xdp(struct xdp_md *ctx)
{
	if (dress((void *)(long)ctx->data, (void *)(long)ctx->data_end, false))
		bpf_tail_call(ctx, &xdp, 0);
	return XDP_ABORTED;
}

SEC("xdp.frags")
int wrap_xdp_reply(struct xdp_md *ctx)
{
	if (dress((void *)(long)ctx->data, (void *)(long)ctx->data_end, true))
		bpf_tail_call(ctx, &xdp, 0);
	return XDP_ABORTED;
}

/*
 * Takes an answer back: an ICMP error quotes the packet, behind room that was made; a reset has its
 * header alone, and other lengths in it.
 */
static __always_inline bool take_back(struct __sk_buff *skb)
{
	struct ethhdr *eth;
	struct iphdr *ip;
	struct ipv6hdr *ip6;

	if (skb->len > full_len)
		return !bpf_skb_adjust_room(skb, -(__s32)added_room, BPF_ADJ_ROOM_MAC, 0);
	if (skb->len == full_len)
		return true;
	if (bpf_skb_change_tail(skb, full_len, 0))
		return false;
	eth = (void *)(long)skb->data;
	ip6 = (void *)(eth + 1);
	if ((void *)(ip6 + 1) > (void *)(long)skb->data_end)
		return false;
	ip = (void *)ip6;
	if (eth->h_proto == bpf_htons(ETH_P_IP))
		ip->tot_len = bpf_htons(full_len - sizeof(*eth));
	else
		ip6->payload_len = bpf_htons(full_len - sizeof(*eth) - sizeof(*ip6));
	return true;
}

/* wrap_ingress, for what is answered. */
SEC("tcx/ingress")
int wrap_answered(struct __sk_buff *skb)
{
	if (take_back(skb) && dress_buffer(skb, false))
		bpf_tail_call(skb, &ingress, 0);
	return 1;
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

SEC("xdp.frags")
int floor_xdp(struct xdp_md *ctx __attribute__((unused)))
{
	return XDP_TX;
}

/* The FIB alone: what XDP asks the kernel for each packet, and a floor of its own. */
SEC("xdp.frags")
int floor_fib(struct xdp_md *ctx)
{
	struct bpf_fib_lookup q = {.ifindex = ctx->ingress_ifindex};
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct iphdr *ip = data + ETH_HLEN;

	if ((void *)(ip + 1) > end || ip->version != 4)
		return XDP_ABORTED;
	q.family = 2; /* AF_INET */
	q.l4_protocol = ip->protocol;
	q.tot_len = 100;
	q.ipv4_src = ip->saddr;
	q.ipv4_dst = ip->daddr;
	return bpf_fib_lookup(ctx, &q, sizeof(q), 0) ? XDP_ABORTED : XDP_TX;
}

/* The key of a packet of IPv4 as the programs have it. False: it is not. */
static __always_inline bool read_key(struct flow_key *k, void *data, void *end)
{
	struct iphdr *ip = data + ETH_HLEN;
	struct tcphdr *tcp = (void *)(ip + 1);

	if ((void *)(tcp + 1) > end || ip->version != 4)
		return false;
	k->saddr[0] = k->daddr[0] = 0;
	k->saddr[1] = (__u64)ip->saddr << 32 | bpf_htonl(0xffff);
	k->daddr[1] = (__u64)ip->daddr << 32 | bpf_htonl(0xffff);
	k->ports = bpf_ntohs(tcp->source) | (__u64)bpf_ntohs(tcp->dest) << 16 |
		   (__u64)ip->protocol << 32 | 1ull << 40;
	return true;
}

/*
 * One lookup of a flow that is there, and a write to it: what memory takes of any program that
 * keeps flows in such a table.
 */
SEC("xdp.frags")
int floor_lookup(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct flow_key k;
	struct flow *f;

	if (!read_key(&k, data, end))
		return XDP_ABORTED;
	f = bpf_map_lookup_elem(&flows, &k);
	if (!f)
		return XDP_ABORTED;
	f->words[6] += end - data;
	return XDP_TX;
}

/* A lookup that finds nothing, and two inserts: the same of a new flow, which has two entries. */
SEC("tcx/ingress")
int floor_insert(struct __sk_buff *skb)
{
	struct flow_key k, reply;
	struct flow f = {};

	if (!read_key(&k, (void *)(long)skb->data, (void *)(long)skb->data_end) ||
	    bpf_map_lookup_elem(&flows, &k))
		return 1;
	__builtin_memcpy(reply.saddr, k.daddr, sizeof(k.daddr));
	__builtin_memcpy(reply.daddr, k.saddr, sizeof(k.saddr));
	reply.ports = k.ports | 4ull << 40;
	if (bpf_map_update_elem(&flows, &reply, &f, BPF_NOEXIST) ||
	    bpf_map_update_elem(&flows, &k, &f, BPF_NOEXIST))
		return 1;
	return -1;
}
