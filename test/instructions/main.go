// SPDX-License-Identifier: Apache-2.0

// Command instructions counts what a packet costs by several dataplanes, in one boot
// of a guest whose clocks count instructions: docs/benchmarks.md explains the method
// and what it does not show. It needs root, and QEMU as `make test-vm` does.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/waggle-lb/waggle/internal/vmtest"
)

// plan is what is measured.
type plan struct {
	kernel   string
	services []int
	ipv6     bool
	repeats  int
	// waggle is the path of the program under test. Only the half of this one that
	// runs in the guest is told.
	waggle string
}

func main() {
	var p plan
	flag.StringVar(&p.kernel, "kernel", "6.12", "line of kernels: "+strings.Join(vmtest.Series(), " or "))
	services := flag.String("services", "1,10000", "how many services there are: numbers in rising order")
	flag.BoolVar(&p.ipv6, "ipv6", false, "by IPv6, in the place of IPv4")
	flag.IntVar(&p.repeats, "repeats", 11, "measurements of each figure; the table has their median")
	flag.StringVar(&p.waggle, "waggle", "", "used by the guest: measure here, with this binary of waggle")
	flag.Parse()
	err := p.parse(*services)
	switch {
	case err != nil:
	case p.waggle == "":
		err = boot(context.Background(), p)
	default:
		err = measure(p)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "instructions:", err)
		os.Exit(1)
	}
}

// mostServices fit into the networks that VIPs are of.
const mostServices = 60000

func (p *plan) parse(services string) error {
	least := 1
	for word := range strings.SplitSeq(services, ",") {
		n, err := strconv.Atoi(word)
		if err != nil || n < least || n > mostServices {
			return fmt.Errorf("-services %q: write numbers from 1 to %d in rising order, 1,10000 say", services, mostServices)
		}
		p.services, least = append(p.services, n), n+1
	}
	if p.repeats < 1 {
		return fmt.Errorf("-repeats %d: write 1 or more", p.repeats)
	}
	return nil
}

// arguments say the same to the half in the guest.
func (p *plan) arguments(waggle string) []string {
	var services []string
	for _, n := range p.services {
		services = append(services, strconv.Itoa(n))
	}
	return []string{"-waggle", waggle, "-services", strings.Join(services, ","), "-ipv6=" + strconv.FormatBool(p.ipv6), "-repeats", strconv.Itoa(p.repeats)}
}

// modules are loaded at the start; nft and ipvsadm have the rest loaded.
var modules = []string{"veth", "ip_vs", "nf_tables"}

// boot runs the other half in a guest.
func boot(ctx context.Context, p plan) error {
	k, err := vmtest.Fetch(ctx, p.kernel)
	if err != nil {
		return err
	}
	workspace, err := vmtest.Workspace()
	if err != nil {
		return err
	}
	defer os.RemoveAll(workspace)
	waggle, err := vmtest.Build(ctx, workspace, "waggle", "./cmd/waggle")
	if err != nil {
		return err
	}
	self, err := vmtest.Build(ctx, workspace, "instructions", "./test/instructions")
	if err != nil {
		return err
	}
	root, err := vmtest.Root()
	if err != nil {
		return err
	}
	fmt.Println(k)
	g := vmtest.Guest{Kernel: k, Modules: modules, MemoryMiB: 3072, Timeout: time.Hour, CountInstructions: true}
	results, times, err := g.Run(ctx, vmtest.Command{
		Args: append([]string{self}, p.arguments(waggle)...), Dir: root, Output: os.Stdout,
		// signals amid what is measured would be counted
		Env: []string{"GODEBUG=asyncpreemptoff=1", "GOMAXPROCS=1", "GOGC=off"},
	})
	if err != nil {
		return err
	}
	fmt.Printf("boot %.0f s, all %.0f s\n", times.Boot.Seconds(), times.Total.Seconds())
	if results[0].ExitStatus != 0 {
		return fmt.Errorf("the guest's half ended with exit status %d", results[0].ExitStatus)
	}
	return nil
}
