// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"strings"

	"github.com/waggle-lb/waggle/internal/netlab"
	"github.com/waggle-lb/waggle/test/benchnet/result"
)

// dataplane is what a director does with packets.
type dataplane struct {
	// name is what -dataplanes says.
	name string
	// paths are its rows.
	paths []path
	// bare says that there are no services: clients connect to the endpoint.
	bare bool
	// rival says that the others are compared with it.
	rival   bool
	install func(ctx context.Context, o *options, b *bed, all []service) error
}

// path is a way through a dataplane.
type path struct {
	name, from string
	// led says that the client is in the control group whose sockets are led.
	led bool
}

// both are the paths of one that serves both places alike.
func both(name string) []path {
	return []path{{name: name, from: result.FromClient}, {name: name, from: result.FromNode}}
}

var dataplanes = []*dataplane{
	{name: "direct", paths: both("direct"), bare: true, install: func(context.Context, *options, *bed, []service) error { return nil }},
	{name: "waggle", paths: []path{{"waggle tc", result.FromClient, false}}, install: installWaggle},
	// A client that is forwarded and led is a pod of the node. Its own client: a server in
	// TIME_WAIT takes no SYN of an older timestamp (PAWS), and the client's clock for the
	// VIP is not that for the server.
	{name: "waggle-sockets", paths: []path{{"waggle sockets", result.FromClient, true}, {"waggle sockets", result.FromNode, true}}, install: installWaggle},
	{name: "waggle-xdp", paths: []path{{"waggle XDP", result.FromClient, false}}, install: installXDP},
	{name: "nftables", paths: both("nftables"), rival: true, install: installNFTables},
	// The older of iptables' two kernel sides, and the newer one, which nft lists too: its
	// tool takes minutes to load 10,000 services, so it is measured when it is asked for.
	{name: "iptables", paths: both("iptables"), rival: true, install: iptablesBy("iptables-legacy-restore")},
	{name: "iptables-nft", paths: both("iptables-nft"), rival: true, install: iptablesBy("iptables-nft-restore")},
}

func installWaggle(ctx context.Context, o *options, b *bed, all []service) error {
	return startWaggle(ctx, o, b, all)
}

// installXDP makes the ends what XDP needs: they take frames that it sends, and send
// none whose checksums a device has yet to finish, as none comes from a network card.
func installXDP(ctx context.Context, o *options, b *bed, all []service) error {
	for _, n := range []*netlab.Node{b.client, b.server} {
		if err := n.PassXDP(nodeDevice); err != nil {
			return err
		}
		if err := n.SetOffload(nodeDevice, netlab.TxChecksum, false); err != nil {
			return err
		}
	}
	return startWaggle(ctx, o, b, all, "--xdp", "native")
}

func installNFTables(ctx context.Context, _ *options, b *bed, all []service) error {
	return restore(ctx, b, nftablesRules(all, b.server.Gateway4.String()), "nft", "-f", "-")
}

func iptablesBy(tool string) func(context.Context, *options, *bed, []service) error {
	return func(ctx context.Context, _ *options, b *bed, all []service) error {
		return restore(ctx, b, iptablesRules(all), tool, "--noflush")
	}
}

// restore loads rules on the director in one go.
func restore(ctx context.Context, b *bed, rules, tool string, args ...string) error {
	cmd := command(tool, args...)
	cmd.Stdin = strings.NewReader(rules)
	_, err := run(ctx, b.Director, loadTimeout, cmd)
	return err
}
