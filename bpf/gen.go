// SPDX-License-Identifier: Apache-2.0

// Package bpf holds the kernel side: lb.c and its headers, compiled by clang
// into the object and the Go bindings that are committed beside them. It knows
// nothing of the rest of waggle.
package bpf

//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -tags linux -target bpfel -cflags "-O2 -g -Wall -Wextra -Werror -mcpu=v3 -I/usr/include/x86_64-linux-gnu" -type flow_key -type flow -type vip_key -type vip -type service -type backend -type backend_load -type backend_stats -type service_name -type clocks -type limits -type position -type flow_state -type flow_flags -type growth_state -type growth_phase -type rule -type rule_flags -type backend_state -type drop_reason -type node_addr_flags -type vip_flags -type service_options -type affinity_key -type affinity_entry -type half_open_ring -type device -type device_flags -type pools -type socket -type socket_peer -type socket_flags -type bind_event -type walked_socket -type held_key LB lb.c
