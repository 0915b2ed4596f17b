// SPDX-License-Identifier: Apache-2.0

//go:build privileged

// Package vm_test runs tests of the programs, of the loader and of the labs
// under the kernels that package vmtest knows, one guest for each.
package vm_test

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/internal/kubetest"
	"github.com/waggle-lb/waggle/internal/testbinary"
	"github.com/waggle-lb/waggle/internal/vmtest"
)

// `make test-vm` sets them.
var (
	kernel  = flag.String("kernel", "", "only this line of kernels, 6.1 or 6.12")
	pkg     = flag.String("pkg", "", "only the tests of this package, ./dataplane/ebpf say")
	pattern = flag.String("tests", "", "only tests that this matches, as -test.run in the guest")
	full    = flag.Bool("full", false, "everything, not the sample of the slow suites")
	long    = flag.Bool("long", false, "as long as it takes: what is random runs for hours")
)

// suite is a package whose tests run in a guest.
type suite struct {
	pkg     string
	pattern string   // all if empty
	flags   []string // of the test binary
	tags    []string // of its build, beside privileged
	// sample are flags, for each line of kernels, that leave a part; -full runs
	// without them. A rig takes two seconds where instructions are
	// emulated, most of it the verifier's.
	sample map[string][]string
	// long are flags for more of the same, with -long.
	long []string
}

// suites are what a kernel must pass.
var suites = []suite{
	{pkg: "./loader", sample: map[string][]string{
		"6.1":  {"-test.skip", "/tcx$"},
		"6.12": {"-test.skip", "/clsact$"},
	}},
	{pkg: "./bpf", sample: map[string][]string{
		"6.1":  {"-test.run", "^Test(Every|Pieces|ErrorsAboutMasq|MasqueradedFl|AMasq)"},
		"6.12": {"-test.run", "^Test(Every|RuleC|ALaterFragmentThat|Few|MasqueradedSCTP)"},
	}},
	{pkg: "./dataplane/ebpf", flags: []string{"-flows", "10000", "-together", "2s", "-socket-cases", "10"}, sample: map[string][]string{
		"6.1":  {"-test.run", "^TestConformance(WhileTheFlowTableGrows)?$/ipv4/TCP/^(flow|masquerade|affinity|lost)$|^TestConformanceThroughXDP$/suite/ipv4/TCP/^flow$"},
		"6.12": {"-test.run", "^TestConformance(WhileTheFlowTableGrows)?$/ipv6/UDP/^(reuse|refuse|schedule|hash|one-packet)$|^TestConformanceThroughXDP$/suite/ipv6/UDP/^flow$"},
	}},
	// only guests have IPVS
	{pkg: "./dataplane/ipvs", tags: []string{"ipvs"}, sample: map[string][]string{
		"6.1":  {"-test.run", "TestConformance/ipv4/TCP/^(flow|policies|node-ports)$|TestWhatIsMissingIsSaid"},
		"6.12": {"-test.run", "TestConformance/ipv6/UDP/^(schedule|masquerade|restart)$|TestCleanupLeavesWhatIsOthers"},
	}},
	// 500 connections of each scheduler, half of them in each family; what decides whether
	// a change lands has one script, the full run another each time
	{pkg: "./test/differential", tags: []string{"ipvs"}, sample: map[string][]string{
		"6.1":  {"-test.run", "/ipv4", "-connections", "250", "-seed", "1"},
		"6.12": {"-test.run", "/ipv6", "-connections", "250", "-seed", "1"},
	}, long: []string{"-connections", "2500"}},
	{pkg: labs, flags: []string{"-vlans", "-ipvs"}, tags: []string{"ipvs"}, pattern: "^(TestTCPThroughTheVIPIsByteExact|TestKillAndStartAgainUnderTraffic|TestADeviceThatAppearsIsServed|TestVLANs|TestSocketsAreLed|TestSocketsEndWhenTheirBackendLeaves|TestTakeoverOfIPVSMode|TestDataplanesAreSwitched|TestAutoTakesWhatThereIs)$", sample: map[string][]string{
		"6.1":  {"-test.run", "^(TestADeviceThatAppearsIsServed|TestVLANs|TestSocketsAreLed|TestAutoTakesWhatThereIs)$"},
		"6.12": {"-test.run", "^TestTCPThroughTheVIPIsByteExact$"},
	}},
	// its tests on this machine leave what needs modules to the guests
	{pkg: cni, flags: []string{"-shapes", "all"}, sample: map[string][]string{
		"6.1":  {"-shapes", "even"},
		"6.12": {"-shapes", "odd"},
	}},
	// IPVS leads no sockets, and ten thousand services take long
	{pkg: kube, flags: []string{"-dataplane", "ipvs"}, pattern: "^Test(Conntrack|LoadBalancers|Networking|NodePortAddresses|Outages|Semantics|Services|Topology)$", sample: map[string][]string{
		"6.1":  {"-test.run", "^TestServices$/^together$/^should_respect_internalTrafficPolicy=Local_Pod_to_Pod$"},
		"6.12": {"-test.run", "^TestServices$/^together$/^should_be_able_to_create_a_functioning_NodePort_service$"},
	}},
}

// labs, cni and kube run binaries that a guest cannot build.
const (
	labs = "./test/lab"
	cni  = "./test/cni"
	kube = "./test/kube"
)

// modules are loaded in every guest: what nothing there loads on demand.
var modules = []string{"veth", "br_netfilter", "dummy", "ip_vs"}

// chosen are the suites that the flags leave.
func chosen() []suite {
	out := slices.Clone(suites)
	if *pkg != "" {
		clean := "./" + filepath.Clean(*pkg)
		out = slices.DeleteFunc(out, func(s suite) bool { return s.pkg != clean })
		if len(out) == 0 {
			out = []suite{{pkg: clean}}
		}
	}
	for i := range out {
		if *pattern != "" {
			out[i].pattern = *pattern
		}
	}
	return out
}

// builder compiles each package once for all kernels.
type builder struct {
	workspace string
	commands  map[string]vmtest.Command
}

func (b *builder) command(t *testing.T, s suite, line string) vmtest.Command {
	t.Helper()
	c, ok := b.commands[s.pkg]
	if !ok {
		var err error
		if c, err = vmtest.GoTest(t.Context(), b.workspace, s.pkg, s.tags...); err != nil {
			t.Fatal(err)
		}
		if s.pkg == labs || s.pkg == cni || s.pkg == kube {
			for name, tags := range map[string]string{"waggle": "", "waggle-clsact": "clsact"} {
				if _, err := vmtest.Build(t.Context(), b.workspace, name, "./cmd/waggle", "-tags", tags); err != nil {
					t.Fatal(err)
				}
			}
			c.Env = []string{testbinary.WaggleVariable + "=" + b.workspace}
		}
		b.commands[s.pkg] = c
	}
	c.Args = append(append(slices.Clip(c.Args), "-test.run", s.pattern), s.flags...)
	if !*full {
		c.Args = append(c.Args, s.sample[line]...) // the last -test.run counts
	}
	if *long {
		c.Args = append(c.Args, s.long...)
	}
	return c
}

func TestKernels(t *testing.T) {
	workspace, err := vmtest.Workspace()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(workspace) })
	b := builder{workspace, make(map[string]vmtest.Command)}
	for _, line := range vmtest.Series() {
		if *kernel != "" && line != *kernel {
			continue
		}
		k, err := vmtest.Fetch(t.Context(), line)
		if err != nil {
			t.Fatal(err)
		}
		g := vmtest.Guest{Kernel: k, Modules: modules, Timeout: 30 * time.Minute}
		var commands []vmtest.Command
		for _, s := range chosen() {
			c := b.command(t, s, line)
			if s.pkg == kube { // each kernel has a cluster of its own
				c.Env = append(slices.Clip(c.Env), kubetest.Start(t).Lend(t, filepath.Join(workspace, "apiserver-"+line), vmtest.HostAddr))
				g.ReachesHost = true
			}
			commands = append(commands, c)
		}
		// the name tells which kernel it was
		t.Run(k.Release, func(t *testing.T) {
			t.Parallel()
			run(t, g, commands)
		})
	}
}

func run(t *testing.T, g vmtest.Guest, commands []vmtest.Command) {
	outputs := make([]bytes.Buffer, len(commands))
	for i := range commands {
		commands[i].Output = io.MultiWriter(&outputs[i], t.Output())
	}
	switch {
	case *long:
		g.Timeout = 5 * time.Hour
	case *full:
		g.Timeout = 150 * time.Minute
	}
	results, times, err := g.Run(t.Context(), commands...)
	fmt.Fprintf(t.Output(), "%v: boot %.1f s, all %.1f s\n", g.Kernel, times.Boot.Seconds(), times.Total.Seconds())
	passed := 0
	for i, r := range results {
		v := vmtest.CountVerdicts(outputs[i].String())
		fmt.Fprintf(t.Output(), "%s: %d passed, %d failed, %d skipped, %.1f s\n", filepath.Base(commands[i].Args[0]), v.Passed, v.Failed, v.Skipped, r.Took.Seconds())
		passed += v.Passed
		// a pattern of the user's need not be for every package
		if r.ExitStatus != 0 || v.Failed+v.Skipped > 0 || v.Passed == 0 && *pattern == "" {
			t.Errorf("%s: exit status %d, %+v", filepath.Base(commands[i].Args[0]), r.ExitStatus, v)
		}
	}
	if passed == 0 {
		t.Error("no test ran")
	}
	if err != nil {
		t.Error(err)
	}
}
